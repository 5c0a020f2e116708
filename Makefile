# Needs Go, make and, for everything but build, root.

# One set of flags for all, so that each package is compiled once: nothing here
# needs cgo, and the binary is static and has no path of this machine in it.
export CGO_ENABLED := 0
export GOFLAGS := $(GOFLAGS) -trimpath

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
GO      ?= go

.PHONY: build tools commands runtime demo test test-containerd bench lint fuzz clean

build:
	$(GO) build -ldflags "-s -w -X main.version=$(VERSION)" -o bin/egress-ip ./plugins/egress-ip

# cnitool and the reference plugins, at the versions in go.mod.
tools:
	$(GO) build -o bin/ tool

PLUGINS = github.com/containernetworking/plugins/plugins

demo: build
	$(GO) build -o bin/ github.com/containernetworking/cni/cnitool $(PLUGINS)/main/bridge $(PLUGINS)/ipam/host-local
	$(GO) run ./integration/demo

# The tests and benchmarks compare with what nft and ip print, run the bridge plugin's
# masquerade by iptables and by nftables, follow the README by hand, and count system calls.
TEST_COMMANDS = nft ip iptables conntrack ethtool tcpdump ping strace

commands:
	@for c in $(TEST_COMMANDS); do command -v $$c >/dev/null || missing=1; done; \
	if [ -n "$$missing" ]; then apt-get update -qq && apt-get install -y -qq --no-install-recommends nftables iproute2 iptables conntrack ethtool tcpdump iputils-ping strace; fi

test: lint build tools commands
	$(GO) test -timeout 30m ./...

# Debian's containerd and runc. The tests start a containerd of their own; they neither need
# nor touch one that runs here.
runtime:
	@for c in containerd containerd-shim-runc-v2 ctr runc; do command -v $$c >/dev/null || missing=1; done; \
	if [ -n "$$missing" ]; then apt-get update -qq && apt-get install -y -qq --no-install-recommends containerd runc; fi

# The built binary under containerd, driven over CRI. A module of its own: what that takes is none of the plugin's.
test-containerd: build tools commands runtime
	$(GO) test -C integration/containerd -count 1 -timeout 9m ./...

# What packets cost a node, and how long a DEL takes in a full conntrack table,
# against conntrack -D. integration/bench/BENCHMARKS.md says what the figures mean.
bench: build tools commands
	$(GO) run ./integration/bench
	$(GO) test ./integration -run '^$$' -bench . -benchtime 10x

lint:
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); if [ -n "$$unformatted" ]; then echo "gofmt would change: $$unformatted"; exit 1; fi
	$(GO) vet ./...
	$(GO) tool staticcheck ./...
	@staticcheck=$$($(GO) tool -n staticcheck) && cd integration/containerd && $(GO) vet ./... && $$staticcheck ./...

# How long each parser is fuzzed for.
FUZZTIME ?= 30s

fuzz:
	$(GO) test ./pkg/config -run '^$$' -fuzz FuzzConfig -fuzztime $(FUZZTIME)
	$(GO) test ./pkg/config -run '^$$' -fuzz FuzzAnnotations -fuzztime $(FUZZTIME)

clean:
	rm -rf bin
