# Needs Go, make and, for everything but build, root.

# One set of flags for all, so that each package is compiled once: nothing here
# needs cgo, and the binary is static and has no path of this machine in it.
export CGO_ENABLED := 0
export GOFLAGS := $(GOFLAGS) -trimpath

# What `egress-ip version` says. By git and not by -buildvcs, which leaves all out where
# it does not find its way. Git looks in this folder alone: sources out of an archive, in
# somebody's repository, are no part of that one. A fixed length, for what git takes
# on its own grows with the clone.
GIT          = GIT_CEILING_DIRECTORIES="$(dir $(CURDIR))" git
VERSION     ?= $(shell $(GIT) describe --tags --always --dirty --abbrev=12 2>/dev/null || echo dev)
COMMIT      ?= $(shell $(GIT) rev-parse HEAD 2>/dev/null)
COMMIT_DATE ?= $(shell TZ=UTC $(GIT) log -1 --date=format-local:%Y-%m-%dT%H:%M:%SZ --format=%cd 2>/dev/null)
GO          ?= go

LDFLAGS = -s -w -X main.version=$(VERSION) -X main.commit=$(COMMIT) -X main.commitDate=$(COMMIT_DATE)

.PHONY: build tools commands runtime demo release image test test-release test-containerd test-race guests test-kernels bench soak soak-host soak-k61 soak-k612 lint fuzz clean

build:
	$(GO) build -buildvcs=false -ldflags "$(LDFLAGS)" -o bin/egress-ip ./plugins/egress-ip

# cnitool and the reference plugins, at the versions in integration/tools/go.mod.
tools:
	$(GO) build -C integration/tools -o $(CURDIR)/bin/ tool

PLUGINS = github.com/containernetworking/plugins/plugins

demo: build
	$(GO) build -C integration/tools -o $(CURDIR)/bin/ github.com/containernetworking/cni/cnitool $(PLUGINS)/main/bridge $(PLUGINS)/ipam/host-local
	$(GO) run ./integration/demo

# The same sources and the same Go make the same bytes, wherever they are built. The
# programs that describe and pack what is built are a module of their own.
ARCHITECTURES = amd64 arm64
BINARIES      = $(ARCHITECTURES:%=egress-ip_$(VERSION)_linux_%)

release:
	rm -rf dist && mkdir dist
	for arch in $(ARCHITECTURES); do \
		GOOS=linux GOARCH=$$arch GOAMD64=v1 GOARM64=v8.0 $(GO) build -buildvcs=false -ldflags "$(LDFLAGS)" \
			-o dist/egress-ip_$(VERSION)_linux_$$arch ./plugins/egress-ip || exit; \
	done
	cd integration/release && for b in $(BINARIES); do \
		$(GO) run ./sbom -version "$(VERSION)" ../../dist/$$b >../../dist/$$b.cdx.json || exit; \
	done
	cd dist && sha256sum * >SHA256SUMS

# An archive of an OCI layout: for ctr, nerdctl and podman to load, or skopeo to push. A kubelet
# takes a name without a host for one of a public registry, and does not find what is here.
image: release
	cd integration/release && $(GO) run ./image -name "localhost/egress-ip:$(VERSION)" -commit "$(COMMIT)" -date "$(COMMIT_DATE)" \
		-o ../../dist/egress-ip_$(VERSION)_image.tar $(BINARIES:%=../../dist/%)
	cd dist && rm SHA256SUMS && sha256sum * >SHA256SUMS

# The tests and benchmarks compare with what nft and ip print, run the bridge plugin's
# masquerade by iptables and by nftables, follow the README by hand, count system calls,
# and run the DaemonSet's container.
TEST_COMMANDS = nft ip iptables conntrack ethtool tcpdump ping strace runc

commands:
	@for c in $(TEST_COMMANDS); do command -v $$c >/dev/null || missing=1; done; \
	if [ -n "$$missing" ]; then apt-get update -qq && apt-get install -y -qq --no-install-recommends nftables iproute2 iptables conntrack ethtool tcpdump iputils-ping strace runc; fi

test: lint build tools commands
	$(GO) test -timeout 30m ./...
	$(GO) test -C integration/schema ./...

# That releases are reproducible, the image is what it should be, and the manifests are
# Kubernetes'. Not out of the cache: Go does not see what make reads.
test-release:
	$(GO) test -C integration/release -count 1 ./...

# Debian's containerd and runc. The tests start a containerd of their own; they neither need
# nor touch one that runs here.
runtime:
	@for c in containerd containerd-shim-runc-v2 ctr runc; do command -v $$c >/dev/null || missing=1; done; \
	if [ -n "$$missing" ]; then apt-get update -qq && apt-get install -y -qq --no-install-recommends containerd runc; fi

# The built binary under containerd, driven over CRI. A module of its own: what that takes is none of the plugin's.
test-containerd: build tools commands runtime
	$(GO) test -C integration/containerd -count 1 -timeout 9m ./...

# The race detector on what has goroutines: packages, and the binary that watches. It needs a C compiler.
test-race: tools commands
	CGO_ENABLED=1 $(GO) test -race ./pkg/kernel ./pkg/lock ./pkg/watch
	mkdir -p bin/race && cp $$(find bin -maxdepth 1 -type f) bin/race
	CGO_ENABLED=1 $(GO) build -race -o bin/race/egress-ip ./plugins/egress-ip
	GORACE=halt_on_error=1 EGRESS_IP_TEST_BIN=$(CURDIR)/bin/race $(GO) test ./integration -count 1 -run '^Test(WatchFlap|WatchCarrier|WatchOnlyOne|WatchdogIsFed|WatchEndsInOrder|InstallWatchKeeps|InstallWatchFights|LockHeld)$$'

# What makes and runs guests.
GUEST_COMMANDS = qemu-system-x86_64 qemu-system-aarch64 mmdebstrap depmod mke2fs xz

guests:
	@for c in $(GUEST_COMMANDS); do command -v $$c >/dev/null || missing=1; done; \
	if [ -n "$$missing" ]; then apt-get update -qq && apt-get install -y -qq --no-install-recommends qemu-system-x86 qemu-system-arm mmdebstrap kmod e2fsprogs xz-utils; fi

# On Debian's kernels 6.1 and 6.12, and 6.1 for arm64, in guests. GUESTS chooses: '-run TestKernels/6.1 -group vrf -tests TestVRF/IPv4'.
test-kernels: guests
	$(GO) test -C integration/kernels -count 1 -timeout 30m $(GUESTS)

# What packets cost a node, and how long a DEL takes in a full conntrack table,
# against conntrack -D. integration/bench/BENCHMARKS.md says what the figures mean.
bench: build tools commands
	$(GO) run ./integration/bench
	$(GO) test ./integration -run '^$$' -bench . -benchtime 10x

# Packets with a wrong source, of egress-ip and of others' schemes, while everything is disturbed: SOAK is for how long,
# KERNEL where (host, k61, k612), SOAKFLAGS further ones (-seed N repeats a run's order of disturbances). One wrong packet
# of egress-ip's fails it. FORMER is the version from which the node is upgraded, and to which it goes back.
SOAK   ?= 10m
KERNEL ?= host
FORMER = 04f183a

former = bin/former-$(FORMER)

$(former)/egress-ip:
	rm -rf $(former) && mkdir -p $(former)/source
	$(GIT) archive $(FORMER) | tar x -C $(former)/source
	$(GO) build -C $(former)/source -buildvcs=false -o ../egress-ip ./plugins/egress-ip
	rm -rf $(former)/source

soak: build tools commands $(former)/egress-ip
	cp $(former)/egress-ip bin/egress-ip-former
	$(MAKE) -s soak-$(KERNEL)

soak-host:
	$(GO) test -c -tags soak -o bin/soak ./integration
	cd integration && exec ../bin/soak -test.run '^TestSoak$$' -test.timeout 0 -for $(SOAK) $(SOAKFLAGS)

soak-k61 soak-k612: guests
	$(GO) test -C integration/kernels -tags soak -count 1 -timeout 0 -run '^TestSoak$$/^$(KERNEL:k6%=6.%)$$' -v -args -for $(SOAK) $(if $(SOAKFLAGS),-soak '$(SOAKFLAGS)')

lint:
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); if [ -n "$$unformatted" ]; then echo "gofmt would change: $$unformatted"; exit 1; fi
	$(GO) vet ./... && $(GO) vet -tags soak ./integration
	@staticcheck=$$($(GO) tool -C integration/tools -n staticcheck) && $$staticcheck ./... && $$staticcheck -tags soak ./integration && \
	for module in containerd kernels release schema; do \
		(cd integration/$$module && $(GO) vet ./... && $$staticcheck ./...) || exit; \
	done

# How long each parser is fuzzed for.
FUZZTIME ?= 30s

fuzz:
	$(GO) test ./pkg/config -run '^$$' -fuzz FuzzConfig -fuzztime $(FUZZTIME)
	$(GO) test ./pkg/config -run '^$$' -fuzz FuzzAnnotations -fuzztime $(FUZZTIME)
	$(GO) test ./pkg/conflist -run '^$$' -fuzz FuzzList -fuzztime $(FUZZTIME)
	$(GO) test ./pkg/conflist -run '^$$' -fuzz FuzzEntry -fuzztime $(FUZZTIME)
	$(GO) test ./pkg/kernel -run '^$$' -fuzz FuzzParseRule -fuzztime $(FUZZTIME)
	$(GO) test -C integration/schema -run '^$$' -fuzz FuzzSchema -fuzztime $(FUZZTIME) -fuzzminimizetime 10x

clean:
	rm -rf bin dist
