module github.com/egress-ip/egress-ip/integration/kernels

go 1.26.0
