package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/egress-ip/egress-ip/pkg/record"
	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// Where pods are, as the conflist says.
const (
	podNetwork4    = "10.244.0.0/16"
	podNetwork6    = "fd00:10:244::/56"
	serviceNetwork = "10.96.0.0/12"
)

// node is the lab's node with a conflist, and the runtime's part of it.
type node struct {
	*nettest.Lab
	nft     *nftables.Conn
	record  string // folder
	bin     string // with the plugins and cnitool
	dir     string // of the conflist
	network string // its name
}

func newNode(t *teller) *node {
	// Unlike any other: it names files that libcni shares with the host's runtimes.
	n := &node{network: fmt.Sprintf("egress-ip-demo-%d", os.Getpid())}
	var err error
	n.bin, err = filepath.Abs("bin")
	t.must(err)
	if _, err := os.Stat(filepath.Join(n.bin, "cnitool")); err != nil {
		t.Fatalf("%v; run the demo by `make demo`, which builds cnitool and the plugins", err)
	}
	n.dir, err = os.MkdirTemp("", "egress-ip-demo-")
	t.must(err)
	t.Cleanup(func() { t.must(os.RemoveAll(n.dir)) })
	n.forgetResults(t)
	n.Lab = nettest.NewLab(t, nettest.LabOptions{SecondDefault: true})
	n.Node.Do(t, func() {
		var store record.Store
		var errRecord, errNft error
		store, errRecord = record.Open()
		n.record = store.Dir()
		n.nft, errNft = nftables.New(nftables.AsLasting())
		err = errors.Join(errRecord, errNft)
	})
	t.must(err)
	t.Cleanup(func() {
		t.must(n.nft.CloseLasting())
		t.must(os.RemoveAll(n.record))
	})
	n.masquerade(t)
	n.configure(t)
	return n
}

// forgetResults has the end remove what libcni remembers of this network, and
// the folders for it that were not there. DEL removes the files as well.
func (n *node) forgetResults(t *teller) {
	const cache = "/var/lib/cni"
	results := filepath.Join(cache, "results")
	var made []string
	for _, dir := range []string{results, cache} {
		if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
			made = append(made, dir)
		}
	}
	t.Cleanup(func() {
		files, err := filepath.Glob(filepath.Join(results, n.network+"-*"))
		t.must(err)
		for _, f := range files {
			t.must(os.Remove(f))
		}
		for _, dir := range made {
			_ = os.Remove(dir) // fails if another runtime has begun to use it
		}
	})
}

type object map[string]any

// configure writes the conflist: the reference bridge plugin with addresses of
// host-local, and egress-ip behind it.
func (n *node) configure(t *teller) {
	bridge := object{
		"type": "bridge", "bridge": "cni0", "isGateway": true,
		"ipam": object{
			"type": "host-local", "dataDir": filepath.Join(n.dir, "addresses"),
			"ranges": [][]object{{{"subnet": "10.244.1.0/24"}}, {{"subnet": "fd00:10:244::/64"}}},
			"routes": []object{{"dst": "0.0.0.0/0"}, {"dst": "::/0"}},
		},
	}
	egress := object{
		"type":         "egress-ip",
		"capabilities": object{annotationsKey: true},
		"links": []object{{
			"name": nettest.SecondLink,
			"allow": []object{{
				"namespaces": []string{"payments"},
				"addresses":  []string{"192.168.124.96/28", "fd00:124::90/124"},
			}},
		}},
		"clusterCIDRs": []string{podNetwork4, serviceNetwork, podNetwork6},
		"probeSNAT":    object{"links": []string{nettest.PrimaryLink}},
	}
	list, err := json.Marshal(object{"cniVersion": "1.0.0", "name": n.network, "plugins": []object{bridge, egress}})
	t.must(err)
	t.must(os.WriteFile(filepath.Join(n.dir, "10-demo.conflist"), list, 0o600))
}

const annotationsKey = "io.kubernetes.cri.pod-annotations"

// pod is a sandbox, as a runtime makes it, with the addresses that ADD gave it.
type pod struct {
	*nettest.Namespace
	IPv4, IPv6 netip.Addr

	annotations map[string]string
	attached    bool
}

// attach makes a pod and attaches it. What is still attached at the end is
// detached then.
func (n *node) attach(t *teller, name string, annotations map[string]string) *pod {
	p := &pod{Namespace: nettest.New(t, name), annotations: annotations}
	t.Cleanup(func() {
		if p.attached {
			n.detach(t, p)
		}
	})
	p.attached = true // also by an ADD that fails half-way
	out, err := n.cnitool("add", p)
	t.must(err)
	var result struct {
		Interfaces []struct{ Name, Sandbox string }
		IPs        []struct{ Address netip.Prefix }
	}
	t.must(json.Unmarshal(out, &result))
	for _, i := range result.Interfaces {
		if i.Sandbox == "" { // on the node; its link-local address comes a moment later
			n.Node.WaitUsable(t, i.Name)
		}
	}
	for _, ip := range result.IPs {
		if a := ip.Address.Addr(); a.Is4() {
			p.IPv4 = a
		} else {
			p.IPv6 = a
		}
	}
	if !p.IPv4.IsValid() || !p.IPv6.IsValid() {
		t.Fatalf("ADD of %s has not given it an address of each family: %s", p, out)
	}
	return p
}

// detach is the runtime's DEL.
func (n *node) detach(t *teller, p *pod) {
	p.attached = false
	_, err := n.cnitool("del", p)
	t.must(err)
}

// callTimeout is far more than a call takes.
const callTimeout = 20 * time.Second

// cnitool runs a command of cnitool for a pod on the node, and returns what it
// prints on stdout.
func (n *node) cnitool(command string, p *pod) ([]byte, error) {
	capArgs, err := json.Marshal(object{annotationsKey: p.annotations})
	if err != nil {
		return nil, fmt.Errorf("encode the annotations of %s: %w", p, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(n.bin, "cnitool"), command, n.network, p.Path())
	// A group of its own: ^C does not cut a call in two, and a timeout ends the
	// plugins as well.
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	cmd.Env = append(os.Environ(),
		"CNI_PATH="+n.bin, "NETCONFPATH="+n.dir,
		"CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=payments;K8S_POD_NAME="+p.String(),
		"CAP_ARGS="+string(capArgs))
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := n.Node.Run(cmd); err != nil {
		return nil, fmt.Errorf("cnitool %s for the pod %s: %w\n%s%s", command, p, err, &stdout, &stderr)
	}
	return stdout.Bytes(), nil
}

// linkName is the name of a link of the node.
func (n *node) linkName(index int) string {
	link, err := n.Node.Netlink().LinkByIndex(index)
	if err != nil {
		return fmt.Sprintf("if%d", index) // as iproute2 does
	}
	return link.Attrs().Name
}
