package integration

import (
	"bytes"
	"crypto/sha512"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/egress-ip/egress-ip/pkg/record"
	"github.com/stretchr/testify/require"
)

// object is a JSON object, as a conflist is made of.
type object map[string]any

// cluster is a lab whose node has a conflist, and the runtime's part of it.
type cluster struct {
	*nettest.Lab
	dir     string // of the conflist
	network string
	repeats bool   // see serveRepeatedly
	plugins string // a folder of plugins that comes before bin
}

// newCluster writes a conflist with these plugins.
func newCluster(t testing.TB, opts nettest.LabOptions, cniVersion string, plugins ...object) *cluster {
	t.Helper()
	c := &cluster{Lab: nettest.NewLab(t, opts), dir: t.TempDir(), network: "net"}
	c.forgetAfter(t)
	c.configure(t, cniVersion, plugins...)
	return c
}

// configure writes the conflist anew.
func (c *cluster) configure(t testing.TB, cniVersion string, plugins ...object) {
	t.Helper()
	list, err := json.Marshal(object{"cniVersion": cniVersion, "name": c.network, "plugins": plugins})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(c.dir, "10-net.conflist"), list, 0o600))
}

// forgetAfter removes what the record of the node's namespace has when the test
// ends; its namespace is never seen again.
func (c *cluster) forgetAfter(t testing.TB) {
	t.Helper()
	dir := c.recordDir(t)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	removeLocksAfter(t, c.Node)
}

// removeLocksAfter removes the namespace's locks when the test ends.
func removeLocksAfter(t testing.TB, n *nettest.Namespace) {
	t.Helper()
	var store record.Store
	var err error
	n.Do(t, func() { store, err = record.Open() })
	require.NoError(t, err)
	t.Cleanup(func() {
		locks, _ := filepath.Glob(store.Dir() + ".*")
		for _, path := range locks {
			_ = os.Remove(path)
		}
	})
}

func (c *cluster) recordDir(t testing.TB) string {
	t.Helper()
	var store record.Store
	var err error
	c.Node.Do(t, func() { store, err = record.Open() })
	require.NoError(t, err)
	return store.Dir()
}

// bridge is the reference bridge plugin with host-local addresses of both families.
func bridge(t *testing.T, ipMasqBackend string) object {
	return object{
		"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "ipMasqBackend": ipMasqBackend,
		"ipam": hostLocal(t),
	}
}

// ptp is the reference ptp plugin with host-local addresses of both families.
func ptp(t *testing.T) object {
	return object{"type": "ptp", "ipMasq": true, "ipMasqBackend": "nftables", "ipam": hostLocal(t)}
}

func hostLocal(t *testing.T) object {
	return object{
		"type": "host-local", "dataDir": t.TempDir(),
		"ranges": [][]object{{{"subnet": "10.244.1.0/24"}}, {{"subnet": "fd00:10:244::/64"}}},
		"routes": []object{{"dst": "0.0.0.0/0"}, {"dst": "::/0"}},
	}
}

// egressIP is the entry of the plugin for enp7s0, with more keys on top.
func egressIP(more object) object {
	entry := object{
		"type":         "egress-ip",
		"capabilities": object{"io.kubernetes.cri.pod-annotations": true},
		"links": []object{{
			"name": nettest.SecondLink,
			"allow": []object{{
				"namespaces": []string{"payments"},
				"addresses":  []string{"192.168.124.96/28", "fd00:124::90/124"},
			}},
		}},
		"clusterCIDRs": []string{"10.244.0.0/16", "10.96.0.0/12", "fd00:10:244::/56"},
	}
	for k, v := range more {
		entry[k] = v
	}
	return entry
}

// annotations of a pod; nil is none.
type annotations map[string]string

func address(value string) annotations { return annotations{"egress-ip.cni/address": value} }

// The egress addresses that most tests use.
const egress4, egress6 = "192.168.124.99", "fd00:124::99"

var both = address(egress4 + "," + egress6)

// pod is a sandbox, as a runtime makes it.
type pod struct {
	*nettest.Namespace
	cluster      *cluster
	annotations  annotations
	capabilities object // beside the annotations
	namespace    string
}

func (c *cluster) newPod(t *testing.T, a annotations) *pod {
	t.Helper()
	p := &pod{Namespace: nettest.New(t, "pod"), cluster: c, annotations: a, namespace: "payments"}
	// cnitool keeps its results in a folder of the machine until DEL, and names them so.
	id := sha512.Sum512([]byte(p.Path()))
	t.Cleanup(func() { _ = os.Remove(fmt.Sprintf("/var/lib/cni/results/%s-cnitool-%x-eth0", c.network, id[:10])) })
	return p
}

// add makes a pod and attaches it.
func (c *cluster) add(t *testing.T, a annotations) *pod {
	t.Helper()
	p := c.newPod(t, a)
	p.add(t)
	return p
}

func (p *pod) add(t *testing.T) {
	t.Helper()
	out, err := p.cnitool("add")
	require.NoError(t, err, out)
}

func (p *pod) del(t *testing.T) {
	t.Helper()
	out, err := p.cnitool("del")
	require.NoError(t, err, out)
}

// cnitool runs a command of cnitool for the pod, and returns all that it prints.
func (p *pod) cnitool(command string) (string, error) {
	capabilities := object{"io.kubernetes.cri.pod-annotations": p.annotations}
	maps.Copy(capabilities, p.capabilities)
	capArgs, err := json.Marshal(capabilities)
	if err != nil {
		return "", err
	}
	cmd := exec.Command(filepath.Join(bin, "cnitool"), command, p.cluster.network, p.Path())
	cmd.Env = append(os.Environ(),
		"CNI_PATH="+p.cluster.plugins+":"+bin, "NETCONFPATH="+p.cluster.dir,
		"CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE="+p.namespace+";K8S_POD_NAME=pod",
		"CAP_ARGS="+string(capArgs))
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err = p.cluster.Node.Run(cmd)
	return out.String(), err
}

// sees asks the server over TCP and UDP which address the pod has for it; both
// answers must be the same.
func (p *pod) sees(t *testing.T, server string) string {
	t.Helper()
	tcp, err := p.Ask("tcp", server)
	require.NoError(t, err)
	udp, err := p.Ask("udp", server)
	require.NoError(t, err)
	require.Equal(t, tcp, udp)
	return tcp.String()
}

// requireSeen checks the pod's source at the server for both families.
func (p *pod) requireSeen(t *testing.T, ipv4, ipv6 string) {
	t.Helper()
	require.Equal(t, ipv4, p.sees(t, nettest.ServerAskIPv4))
	require.Equal(t, ipv6, p.sees(t, nettest.ServerAskIPv6))
}

// command runs a program on the node and returns what it prints.
func (c *cluster) command(t testing.TB, name string, args ...string) string {
	t.Helper()
	return c.on(t, c.Node, name, args...)
}

// on runs a program in a namespace and returns what it prints.
func (c *cluster) on(t testing.TB, n *nettest.Namespace, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	require.NoError(t, n.Run(cmd), "%s: %s", cmd, &out)
	return out.String()
}

// state is all that a person would look at on the node: rules, routes of every
// table, addresses, the nftables ruleset without its counters, and the record.
func (c *cluster) state(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	for _, args := range [][]string{
		{"ip", "-d", "rule"}, {"ip", "-d", "-6", "rule"},
		{"ip", "-d", "route", "show", "table", "all"}, {"ip", "-d", "-6", "route", "show", "table", "all"},
		{"ip", "-br", "address"}, {"nft", "-s", "list", "ruleset"},
	} {
		out := c.command(t, args[0], args[1:]...)
		switch {
		case args[0] == "nft":
			out = inNameOrder(out)
		case args[1] == "-br": // in which order they came does not matter
			lines := strings.Split(out, "\n")
			for i, line := range lines {
				if fields := strings.Fields(line); len(fields) > 2 {
					slices.Sort(fields[2:])
					lines[i] = strings.Join(fields, " ")
				}
			}
			out = strings.Join(lines, "\n")
		}
		fmt.Fprintf(&b, "# %s\n%s", strings.Join(args, " "), out)
	}
	fmt.Fprintf(&b, "# record\n%s", strings.Join(c.recorded(t), "\n"))
	return b.String()
}

// recorded lists every file and directory of the record, but for the copies of others.
func (c *cluster) recorded(t *testing.T) []string {
	t.Helper()
	var names []string
	dir := c.recordDir(t)
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if os.IsNotExist(err) {
			return nil
		}
		if name := strings.TrimPrefix(path, dir); name != "/copies" {
			names = append(names, name)
		}
		return err
	})
	require.NoError(t, err)
	return names
}

// requireNoAttachment: nothing is recorded but the probe table, which stays.
func (c *cluster) requireNoAttachment(t *testing.T) {
	t.Helper()
	require.Subset(t, []string{"", "/probe.json"}, c.recorded(t))
}

// call is one direct call of the plugin, without a main plugin before it.
type call struct {
	command, containerID, netns, stdin, args string
}

// plugin calls the binary on the node, and returns its stdout and exit error.
func (c *cluster) plugin(call call) (string, error) {
	cmd := exec.Command(filepath.Join(bin, "egress-ip"))
	cmd.Env = []string{
		"CNI_COMMAND=" + call.command, "CNI_CONTAINERID=" + call.containerID, "CNI_IFNAME=eth0",
		"CNI_NETNS=" + call.netns, "CNI_PATH=" + bin, "CNI_ARGS=" + call.args,
	}
	cmd.Stdin = strings.NewReader(call.stdin)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := c.Node.Run(cmd)
	if err != nil {
		err = fmt.Errorf("%w\n%s%s", err, &stdout, &stderr)
	}
	return stdout.String(), err
}

// request is the stdin of a direct ADD or CHECK for a pod with these addresses.
func request(t testing.TB, entry object, a annotations, addresses ...string) string {
	t.Helper()
	var ips []object
	for _, address := range addresses {
		prefix := netip.PrefixFrom(netip.MustParseAddr(address), netip.MustParseAddr(address).BitLen())
		ips = append(ips, object{"address": prefix.String(), "interface": 0})
	}
	stdin := object{
		"cniVersion": "1.1.0", "name": "net",
		"runtimeConfig": object{"io.kubernetes.cri.pod-annotations": a},
		"prevResult": object{
			"cniVersion": "1.1.0", "ips": ips,
			"interfaces": []object{{"name": "eth0", "sandbox": "/run/netns/pod"}},
		},
	}
	for k, v := range entry {
		stdin[k] = v
	}
	data, err := json.Marshal(stdin)
	require.NoError(t, err)
	return string(data)
}

// direct is a pod made without a main plugin, attached by direct calls.
type direct struct {
	*nettest.Pod
	cluster   *cluster
	id        string
	entry     object
	addresses []string
}

// newDirect makes a cluster's pod with a container ID and addresses of its own.
func (c *cluster) newDirect(t testing.TB, id, ipv4, ipv6 string, entry object) *direct {
	t.Helper()
	return &direct{c.PodVeth(t, ipv4, ipv6), c, id, entry, []string{ipv4, ipv6}}
}

func (d *direct) call(t testing.TB, command string, a annotations) (string, error) {
	t.Helper()
	return d.cluster.plugin(call{
		command: command, containerID: d.id, netns: d.Path(),
		stdin: request(t, d.entry, a, d.addresses...), args: "K8S_POD_NAMESPACE=payments;K8S_POD_NAME=pod",
	})
}

func (d *direct) add(t testing.TB, a annotations) {
	t.Helper()
	_, err := d.call(t, "ADD", a)
	require.NoError(t, err)
}

func (d *direct) del(t testing.TB) {
	t.Helper()
	_, err := d.call(t, "DEL", nil)
	require.NoError(t, err)
}

func (d *direct) requireSeen(t *testing.T, ipv4, ipv6 string) {
	t.Helper()
	(&pod{Namespace: d.Namespace}).requireSeen(t, ipv4, ipv6)
}
