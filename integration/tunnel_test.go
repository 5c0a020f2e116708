package integration

import (
	"strings"
	"testing"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
)

// TestTunnel: an egress link that is a tunnel. What the tunnel sends for a pod's packet
// is the node's own packet, which goes by the main table like all of the node's, to
// whichever remote end there is: fixed, several in the forwarding database, another
// one later.
func TestTunnel(t *testing.T) {
	t.Parallel()
	const overIPv4, overIPv6 = "local 192.0.2.10 ", "local 2001:db8:1::10 udp6zerocsumrx "
	database := func(remotes ...string) func(*testing.T, *cluster) {
		return func(t *testing.T, c *cluster) {
			for _, remote := range remotes {
				c.command(t, "bridge", "fdb", "append", "00:00:00:00:00:00", "dev", "vx0", "dst", remote)
			}
		}
	}
	for name, tt := range map[string]struct {
		node, router string // of the link
		prepare      func(*testing.T, *cluster)
		later        func(*testing.T, *cluster)
	}{
		"over IPv4": {
			node: overIPv4 + "remote 192.0.2.1", router: "local 192.0.2.1 remote 192.0.2.10",
		},
		"over IPv6": {
			node: overIPv6 + "remote 2001:db8:1::1", router: "local 2001:db8:1::1 remote 2001:db8:1::10 udp6zerocsumrx",
		},
		"over IPv4, bound to the primary link": {
			node: overIPv4 + "remote 192.0.2.1 dev eth0", router: "local 192.0.2.1 remote 192.0.2.10",
		},
		"remote ends in the forwarding database": {
			node: overIPv4 + "nolearning", router: "remote 192.0.2.10", prepare: database("192.0.2.1", "192.0.2.8"),
		},
		"another remote end later": {
			node: overIPv4 + "remote 192.0.2.1", router: "remote 192.0.2.10",
			later: run("ip link set vx0 type vxlan id 42 remote 192.0.2.7", "ip neighbour flush dev vx0"),
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, nettest.LabOptions{}, "1.0.0")
			c.Router.AddAddress(t, nettest.RouterPrimaryLink, "192.0.2.7/24")
			for _, end := range []struct {
				on                   *nettest.Namespace
				options, four, sixth string
			}{
				{c.Node, tt.node, "192.168.126.10/24", "fd00:126::10/64"},
				{c.Router, tt.router, "192.168.126.1/24", "fd00:126::1/64"},
			} {
				c.on(t, end.on, "ip", strings.Fields("link add vx0 type vxlan id 42 dstport 4789 "+end.options)...)
				end.on.SetUp(t, "vx0")
				end.on.AddAddress(t, "vx0", end.four)
				end.on.AddAddress(t, "vx0", end.sixth)
			}
			if tt.prepare != nil {
				tt.prepare(t, c)
			}
			d := c.newDirect(t, "pod", "10.244.1.5", "fd00:10:244::5", egressIP(object{"links": []object{{
				"name": "vx0", "gateways": []string{"192.168.126.1", "fd00:126::1"},
				"allow": []object{{"namespaces": []string{"payments"}, "addresses": []string{"192.168.126.96/28", "fd00:126::90/124"}}},
			}}}))
			plain := c.newDirect(t, "plain", "10.244.1.6", "fd00:10:244::6", d.entry)
			c.Router.AddRoute(t, nettest.Route{Dst: "10.244.1.6/32", Via: nettest.PrimaryIPv4})
			c.Router.AddRoute(t, nettest.Route{Dst: "fd00:10:244::6/128", Via: nettest.PrimaryIPv6})
			d.add(t, address("192.168.126.99,fd00:126::99"))
			plain.add(t, nil)
			d.requireSeen(t, "192.168.126.99", "fd00:126::99")
			plain.requireSeen(t, "10.244.1.6", "fd00:10:244::6")
			c.status(t, 0)
			if tt.later != nil {
				tt.later(t, c)
				d.requireSeen(t, "192.168.126.99", "fd00:126::99")
				c.requireNothingToDo(t)
			}
			_, err := d.call(t, "CHECK", address("192.168.126.99,fd00:126::99"))
			require.NoError(t, err)
		})
	}
}
