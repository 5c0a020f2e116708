//go:build guest

package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
)

// What the disk of a node keeps over a reboot.
const (
	nodeConf, nodeBin, nodeCache = "/etc/cni/net.d", "/opt/cni/bin", "/var/lib/cni"
	nodeTableNames               = "/etc/iproute2/rt_tables.d/egress-ip.conf"
	nodeRuleset                  = "/etc/nftables.conf"
)

// The only addresses for pods, so that those of before the reboot are used again.
const (
	first4, first6   = "10.244.1.5", "fd00:10:244::5"
	second4, second6 = "10.244.1.6", "fd00:10:244::6"
)

// rebooted is the guest as a node, and what calls plugins there, with the files of a real node.
type rebooted struct {
	*cluster
	cni  *libcni.CNIConfig
	list *libcni.NetworkConfigList
}

func newRebooted(t *testing.T) *rebooted {
	t.Helper()
	r := &rebooted{cluster: &cluster{Lab: nettest.NewGuestLab(t), dir: nodeConf, network: "net"}}
	r.Router.AddRoute(t, nettest.Route{Dst: "10.244.1.0/24", Via: nettest.PrimaryIPv4})
	r.Router.AddRoute(t, nettest.Route{Dst: "fd00:10:244::/64", Via: nettest.PrimaryIPv6})
	return r
}

// configureLinks does what the node's network daemon does.
func (r *rebooted) configureLinks(t *testing.T) {
	t.Helper()
	for link, addresses := range map[string][]string{
		nettest.PrimaryLink: {nettest.PrimaryIPv4 + "/24", nettest.PrimaryIPv6 + "/64"},
		nettest.SecondLink:  {nettest.SecondIPv4 + "/24", nettest.SecondIPv6 + "/64"},
	} {
		for _, address := range addresses {
			r.Node.AddAddress(t, link, address)
		}
	}
	r.Node.AddRoute(t, nettest.Route{Dst: "0.0.0.0/0", Via: nettest.PrimaryGatewayIPv4})
	r.Node.AddRoute(t, nettest.Route{Dst: "::/0", Via: nettest.PrimaryGatewayIPv6})
}

// useRuntime reads the network as a runtime does when it starts.
func (r *rebooted) useRuntime(t *testing.T) {
	t.Helper()
	var err error
	r.list, err = libcni.ConfListFromFile(filepath.Join(nodeConf, "10-net.conflist"))
	require.NoError(t, err)
	r.cni = libcni.NewCNIConfigWithCacheDir([]string{nodeBin}, nodeCache, nil)
}

// config is what a runtime passes for a container. Annotations come with each call.
func (r *rebooted) config(id, netns string, a annotations) *libcni.RuntimeConf {
	return &libcni.RuntimeConf{
		ContainerID: id, NetNS: netns, IfName: "eth0",
		Args:           [][2]string{{"IgnoreUnknown", "1"}, {"K8S_POD_NAMESPACE", "payments"}, {"K8S_POD_NAME", id}},
		CapabilityArgs: map[string]any{"io.kubernetes.cri.pod-annotations": a},
	}
}

// start makes a pod; its addresses are what the IPAM plugin has left.
func (r *rebooted) start(t *testing.T, id string, a annotations) *pod {
	t.Helper()
	p := &pod{Namespace: nettest.New(t, id)}
	_, err := r.cni.AddNetworkList(t.Context(), r.list, r.config(id, p.Path(), a))
	require.NoError(t, err)
	return p
}

// end is DEL, with the result of ADD out of the cache. The namespace of a container of
// before the reboot is gone.
func (r *rebooted) end(t *testing.T, id, netns string, a annotations) {
	t.Helper()
	require.NoError(t, r.cni.DelNetworkList(t.Context(), r.list, r.config(id, netns, a)))
}

// TestBeforeReboot leaves a node with an annotated and a plain pod as it is. Its
// administrator has saved the ruleset, for nftables.service to load.
func TestBeforeReboot(t *testing.T) {
	r := newRebooted(t)
	r.configureLinks(t)
	for _, dir := range []string{nodeConf, nodeBin} {
		require.NoError(t, os.MkdirAll(dir, 0o755))
	}
	for _, name := range []string{"bridge", "host-local"} {
		program, err := os.ReadFile(filepath.Join(bin, name))
		require.NoError(t, err)
		nettest.WriteProgram(t, filepath.Join(nodeBin, name), program)
	}
	r.configure(t, "1.0.0", object{"type": "bridge", "bridge": "cni0", "isGateway": true, "ipam": object{
		"type": "host-local",
		"ranges": [][]object{
			{{"subnet": "10.244.1.0/24", "rangeStart": first4, "rangeEnd": second4, "gateway": "10.244.1.1"}},
			{{"subnet": "fd00:10:244::/64", "rangeStart": first6, "rangeEnd": second6, "gateway": "fd00:10:244::1"}},
		},
		"routes": []object{{"dst": "0.0.0.0/0"}, {"dst": "::/0"}},
	}})
	links := egressIP(nil)["links"].([]object)
	links[0]["gateways"] = []string{nettest.SecondGatewayIPv4, nettest.SecondGatewayIPv6}
	// With sourceCheck the saved ruleset names what does not exist at the next boot, and nft does not load it.
	entry, err := json.Marshal(egressIP(object{"links": links, "sourceCheck": false}))
	require.NoError(t, err)
	file := filepath.Join(t.TempDir(), "entry.json")
	require.NoError(t, os.WriteFile(file, entry, 0o600))
	r.command(t, filepath.Join(bin, "egress-ip"), "install", "--entry", file)
	r.useRuntime(t)
	r.start(t, "before-annotated", both).requireSeen(t, egress4, egress6)
	r.start(t, "before-plain", nil).requireSeen(t, second4, second6)
	require.Equal(t, []string{r.table(t)}, namedTables(t))
	require.NoError(t, os.WriteFile(nodeRuleset, []byte("flush ruleset\n"+r.command(t, "nft", "list", "ruleset")), 0o644))
}

// namedTables are the numbers of the tables to which egress-ip has given names.
func namedTables(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile(nodeTableNames)
	if os.IsNotExist(err) {
		return nil
	}
	require.NoError(t, err)
	var numbers []string
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); fields[0] != "#" {
			numbers = append(numbers, fields[0])
		}
	}
	return numbers
}

// TestAfterReboot: the kernel's part and the record are gone, links have other ifindexes, and
// the runtime ends the containers of before, late and twice, while new ones have their
// addresses. Somebody has loaded the ruleset of before. No packet has a wrong source, and nothing of before is left.
func TestAfterReboot(t *testing.T) {
	require.NoDirExists(t, "/run/egress-ip")
	before := namedTables(t)
	require.Len(t, before, 1)
	table, err := strconv.Atoi(before[0])
	require.NoError(t, err)
	// The number of before is that of another link's table.
	for index := 2; index < table-1000; index++ {
		require.NoError(t, exec.Command("ip", "link", "add", "index", fmt.Sprint(index), "type", "dummy").Run())
	}
	r := newRebooted(t)
	require.Equal(t, table, 1000+r.Node.Index(t, nettest.PrimaryLink))
	world := r.Server.Capture(t, "eth0")
	r.useRuntime(t)

	// The network daemon is not through yet: an annotated pod has to wait, or would have no way.
	r.end(t, "before-annotated", "", both)
	early := nettest.New(t, "early")
	_, err = r.cni.AddNetworkList(t.Context(), r.list, r.config("early", early.Path(), both))
	require.ErrorContains(t, err, nettest.SecondLink)
	r.end(t, "early", early.Path(), both)
	r.configureLinks(t)

	r.command(t, "nft", "-f", nodeRuleset)
	plain := r.start(t, "after-plain", nil)
	plain.requireSeen(t, first4, first6) // which the annotated pod had
	r.end(t, "before-plain", "", nil)
	annotated := r.start(t, "after-annotated", both)
	annotated.requireSeen(t, egress4, egress6)
	for _, id := range []string{"before-annotated", "before-plain"} {
		r.end(t, id, "", both)
	}
	annotated.requireSeen(t, egress4, egress6)
	plain.requireSeen(t, first4, first6)
	require.Equal(t, []string{r.table(t)}, namedTables(t))

	startWatcher(t, r.Node)
	r.status(t, 0)
	out, _ := r.egressIP(t, "resync")
	require.Equal(t, "nothing to do\n", out)
	state := r.state(t)
	require.NotContains(t, state, "before-")
	require.NotContains(t, state, " "+before[0]+" ") // as a table of rules and routes
	requireSources(t, world, egress4, egress6, first4, first6)
	r.end(t, "after-annotated", annotated.Path(), both)
	r.end(t, "after-plain", plain.Path(), nil)
	r.requireNoAttachment(t)
	require.Empty(t, namedTables(t))
}
