package integration

import (
	"strings"
	"testing"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
)

// TestLinkAlone: with no address named, a pod leaves with the link's own ones,
// and those stay when it goes.
func TestLinkAlone(t *testing.T) {
	t.Parallel()
	c := newCluster(t, nettest.LabOptions{SecondDefault: true, ThirdLink: true}, "1.0.0")
	entry := egressIP(object{"links": []object{{"name": "enp*", "allow": []object{{"namespaces": []string{"payments"}}}}}})
	d := c.newDirect(t, "pod", "10.244.1.5", "fd00:10:244::5", entry)
	d.add(t, nil) // the probe table
	before := c.state(t)

	d.add(t, annotations{"egress-ip.cni/link": "enp8s0"})
	d.requireSeen(t, nettest.ThirdIPv4, nettest.ThirdIPv6)
	d.del(t)
	require.Equal(t, before, c.state(t))

	// Another pod's egress address is not the link's own.
	other := c.newDirect(t, "other", "10.244.1.6", "fd00:10:244::6", egressIP(nil))
	other.add(t, both)
	c.Node.DeleteAddress(t, nettest.SecondLink, nettest.SecondIPv4+"/24")
	c.command(t, "ip", "address", "add", nettest.SecondIPv4+"/24", "dev", nettest.SecondLink) // behind the other now
	d.add(t, annotations{"egress-ip.cni/link": "enp7s0"})
	require.Equal(t, nettest.SecondIPv6, d.sees(t, nettest.ServerAskIPv6))
	elements := c.command(t, "nft", "list", "map", "inet", "egress_ip", "snat4")
	require.Contains(t, elements, `10.244.1.5 . "enp7s0" comment "pod" : 192.168.124.10`)
}

func (d *direct) sees(t *testing.T, server string) string {
	t.Helper()
	return (&pod{Namespace: d.Namespace}).sees(t, server)
}

// TestTwoLinks: two teams, each with a link of its own.
func TestTwoLinks(t *testing.T) {
	t.Parallel()
	c := newCluster(t, nettest.LabOptions{SecondDefault: true, ThirdLink: true}, "1.0.0")
	entry := egressIP(object{"links": []object{
		{"name": "enp7s0", "allow": []object{{"namespaces": []string{"payments"}, "addresses": []string{"192.168.124.99", "fd00:124::99"}}}},
		{"name": "enp8s0", "allow": []object{{"namespaces": []string{"*"}, "addresses": []string{"192.168.125.99", "fd00:125::99"}}}},
	}})
	first := c.newDirect(t, "first", "10.244.1.5", "fd00:10:244::5", entry)
	second := c.newDirect(t, "second", "10.244.1.6", "fd00:10:244::6", entry)
	first.add(t, nil)
	before := c.state(t)
	first.add(t, both)
	second.add(t, address("192.168.125.99,fd00:125::99"))
	first.requireSeen(t, egress4, egress6)
	second.requireSeen(t, "192.168.125.99", "fd00:125::99")

	// A family each, by different links.
	first.del(t)
	first.add(t, address(egress4+",fd00:125::99"))
	first.requireSeen(t, egress4, "fd00:125::99")
	second.requireSeen(t, "192.168.125.99", "fd00:125::99")

	first.del(t)
	second.requireSeen(t, "192.168.125.99", "fd00:125::99")
	second.del(t)
	require.Equal(t, before, c.state(t))
}

// TestOneFamily: a family for which no address is named is left alone.
func TestOneFamily(t *testing.T) {
	t.Parallel()
	c := newCluster(t, nettest.LabOptions{SecondDefault: true}, "1.0.0")
	c.Router.AddRoute(t, nettest.Route{Dst: "10.244.1.0/24", Via: nettest.PrimaryIPv4})
	c.Router.AddRoute(t, nettest.Route{Dst: "fd00:10:244::/64", Via: nettest.PrimaryIPv6})
	d := c.newDirect(t, "pod", "10.244.1.5", "fd00:10:244::5", egressIP(nil))
	d.add(t, address(egress4))
	d.requireSeen(t, egress4, "fd00:10:244::5")
	require.NotContains(t, c.command(t, "ip", "-6", "rule"), "6000:")
	d.add(t, address(egress6))
	d.requireSeen(t, "10.244.1.5", egress6)
	require.NotContains(t, c.command(t, "ip", "rule"), "6000:")
	d.add(t, nil)
	d.requireSeen(t, "10.244.1.5", "fd00:10:244::5")
	c.requireNoAttachment(t)
}

// TestAddressKeptOffNode: the node's own connections do not take the egress
// address for their source, and an IPv6 one is usable at once.
func TestAddressKeptOffNode(t *testing.T) {
	t.Parallel()
	c := newCluster(t, nettest.LabOptions{SecondDefault: true}, "1.0.0")
	d := c.newDirect(t, "pod", "10.244.1.5", "fd00:10:244::5", egressIP(nil))
	c.Node.Sysctl(t, "net.ipv6.conf.enp7s0.accept_dad", "1")
	d.add(t, both)
	require.NotContains(t, c.command(t, "ip", "-6", "address", "show", "dev", "enp7s0", "to", egress6), "tentative")
	d.requireSeen(t, egress4, egress6)
	for server, want := range map[string]string{"192.168.124.1": nettest.SecondIPv4, "fd00:124::1": nettest.SecondIPv6} {
		route := c.command(t, "ip", "route", "get", server)
		require.Contains(t, strings.Fields(route), want, route)
	}
}
