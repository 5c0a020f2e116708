// The schema of an entry against the parser: a module of its own, so that the validator is not
// among what the plugin requires.
module github.com/egress-ip/egress-ip/integration/schema

go 1.26.0

replace github.com/egress-ip/egress-ip => ../..

require (
	github.com/egress-ip/egress-ip v0.0.0
	github.com/santhosh-tekuri/jsonschema/v6 v6.0.3
	github.com/stretchr/testify v1.12.1
	go.yaml.in/yaml/v3 v3.0.5
)

require (
	github.com/containernetworking/cni v1.3.1 // indirect
	github.com/vishvananda/netns v0.0.5 // indirect
	golang.org/x/sys v0.48.0 // indirect
	golang.org/x/text v0.17.0 // indirect
	sigs.k8s.io/json v0.0.0-20260909141634-11ed52e25bc5 // indirect
)
