//go:build guest

package integration

import (
	"crypto/ecdh"
	"crypto/rand"
	"encoding/base64"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
)

// TestGuestLinkKinds: kinds of links that not every kernel has.
func TestGuestLinkKinds(t *testing.T) {
	t.Parallel()
	const gre = "link add gre1 type gre ttl 64 "
	testLinkKinds(t, map[string]linkKind{
		"VLAN": {
			name: "enp7s0.100", far: "second.100",
			prepare: onRouter("link add link second name second.100 type vlan id 100"),
			create:  onNode("link add link enp7s0 name enp7s0.100 type vlan id 100"),
			down:    onNode("link set enp7s0 down"), up: onNode("link set enp7s0 up"),
		},
		"bond": bond("fail_over_mac none"),
		"VLAN on a bond with the MAC of the active link": vlanOnBond("fail_over_mac active"),
		"bridge, br_netfilter":                           withBridgeNetfilter(bridgeLink()),
		"ipvlan, L2":                                     on("type ipvlan mode l2"),
		"ipvlan, L3, of another machine":                 ipvlanFromOutside(),
		"GRE": {
			name: "gre1", far: "gre1", noGateways: true, noNeighbours: true,
			prepare: onRouter(gre + "local 192.0.2.1 remote 192.0.2.10"),
			create:  onNode(gre + "local 192.0.2.10 remote 192.0.2.1"),
		},
		"WireGuard": wireGuard(),
	})
}

// TestGuestLinksRefused: links that not every kernel has, and that cannot carry egress.
func TestGuestLinksRefused(t *testing.T) {
	t.Parallel()
	testLinksRefused(t, map[string]refusedLink{
		"dummy":       {linkKind{name: "dummy7", create: onNode("link add dummy7 type dummy")}, "dummy"},
		"ipvlan, L3":  {on("type ipvlan mode l3"), "l3"},
		"ipvlan, L3S": {on("type ipvlan mode l3s"), "l3s"},
	})
}

// bond has two links to a switch. While one of them has a carrier, the bond has.
func bond(option string) linkKind {
	return linkKind{
		name: "bond7", far: "switch",
		prepare: func(t *testing.T, c *cluster) {
			c.ip(t, c.Node, "link add port1 type veth peer name port1 netns ROUTER", "link add port2 type veth peer name port2 netns ROUTER")
			c.ip(t, c.Router, "link add switch type bridge", "link set port1 up master switch", "link set port2 up master switch")
		},
		create: onNode("link add bond7 type bond mode active-backup miimon 20 "+option,
			"link set port1 down", "link set port2 down", "link set port1 master bond7", "link set port2 master bond7"),
		down: onRouter("link set port1 down", "link set port2 down"), up: onRouter("link set port1 up"),
		also: func(t *testing.T, l *linkTest, requireContinue func()) {
			for _, change := range []func(*testing.T, *cluster){
				onRouter("link set port1 down"),
				onRouter("link set port1 up"),
				onRouter("link set port2 down"),
				onNode("link set port2 nomaster"),
				onRouter("link set port2 up"),
				onNode("link set port2 master bond7"),
			} {
				change(t, l.cluster)
				requireContinue()
			}
		},
	}
}

func vlanOnBond(option string) linkKind {
	k := bond(option)
	prepare, create := k.prepare, k.create
	k.name, k.far = "bond7.100", "switch.100"
	k.prepare = func(t *testing.T, c *cluster) {
		prepare(t, c)
		create(t, c)
		c.ip(t, c.Node, "link set bond7 up")
		c.ip(t, c.Router, "link set switch up", "link add link switch name switch.100 type vlan id 100")
	}
	k.create = onNode("link add link bond7 name bond7.100 type vlan id 100")
	return k
}

// withBridgeNetfilter has what a bridge receives traverse the IP chains as bridged packets,
// as kubeadm has it.
func withBridgeNetfilter(k linkKind) linkKind {
	prepare := k.prepare
	k.prepare = func(t *testing.T, c *cluster) {
		out, err := exec.Command("modprobe", "br_netfilter").CombinedOutput()
		require.NoError(t, err, string(out))
		c.Node.Sysctl(t, "net.bridge.bridge-nf-call-iptables", "1")
		c.Node.Sysctl(t, "net.bridge.bridge-nf-call-ip6tables", "1")
		prepare(t, c)
	}
	return k
}

// ipvlanFromOutside is a node that is a container: it has a link of another machine's, which
// routes what the link sends.
func ipvlanFromOutside() linkKind {
	var machine *nettest.Namespace
	return linkKind{
		name: "egress0", noGateways: true, noNeighbours: true,
		prepare: func(t *testing.T, c *cluster) {
			machine = nettest.New(t, "machine")
			nettest.Connect(t, machine, "eth0", c.Router, "machine")
			for _, f := range []struct{ machine, router, bits, all, pods string }{
				{"192.168.127.10", "192.168.127.1", "/24", "0.0.0.0/0", "192.168.126.0/24"},
				{"fd00:127::10", "fd00:127::1", "/64", "::/0", "fd00:126::/64"},
			} {
				machine.AddAddress(t, "eth0", f.machine+f.bits)
				c.Router.AddAddress(t, "machine", f.router+f.bits)
				machine.AddRoute(t, nettest.Route{Dst: f.all, Via: f.router})
				c.Router.AddRoute(t, nettest.Route{Dst: f.pods, Via: f.machine})
			}
		},
		create: func(t *testing.T, c *cluster) {
			c.ip(t, machine, "link add link eth0 name egress0 type ipvlan mode l3", "link set egress0 netns NODE")
		},
	}
}

// wireGuard is a tunnel as providers of VPNs have it: the node has one address there and no
// network, and pods leave with that. The packets around have wg-quick's mark.
func wireGuard() linkKind {
	node, router := newKey(), newKey()
	create := func(on func(*cluster) *nettest.Namespace, key *ecdh.PrivateKey, options ...string) func(*testing.T, *cluster) {
		return func(t *testing.T, c *cluster) {
			c.ip(t, on(c), "link add wg0 type wireguard")
			file := filepath.Join(t.TempDir(), "key")
			require.NoError(t, os.WriteFile(file, []byte(base64.StdEncoding.EncodeToString(key.Bytes())), 0o600))
			cmd := exec.Command("wg", append([]string{"set", "wg0", "listen-port", "51820", "private-key", file, "peer"}, options...)...)
			var out strings.Builder
			cmd.Stdout, cmd.Stderr = &out, &out
			require.NoError(t, on(c).Run(cmd), &out)
		}
	}
	return linkKind{
		name: "wg0", far: "wg0", noGateways: true, noNeighbours: true, own: true, bits4: "/32", bits6: "/128",
		prepare: create(func(c *cluster) *nettest.Namespace { return c.Router }, router, public(node), "allowed-ips", linkNode4+"/32,"+linkNode6+"/128"),
		create: func(t *testing.T, c *cluster) {
			create(func(c *cluster) *nettest.Namespace { return c.Node }, node,
				public(router), "endpoint", nettest.PrimaryGatewayIPv4+":51820", "allowed-ips", "0.0.0.0/0,::/0")(t, c)
			c.command(t, "wg", "set", "wg0", "fwmark", "51820")
		},
	}
}

func newKey() *ecdh.PrivateKey {
	key, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	return key
}

func public(key *ecdh.PrivateKey) string {
	return base64.StdEncoding.EncodeToString(key.PublicKey().Bytes())
}
