package integration

import (
	"strings"
	"testing"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
)

// TestNextHopObjects: where the node's routes name next hop objects, and the kernel says
// nothing else of them, plain pods start, the probe table has the uplink, and an
// annotated pod leaves by the routes that its link has; one next hop and a group of them.
func TestNextHopObjects(t *testing.T) {
	t.Parallel()
	for name, hops := range map[string][]string{
		"one": {
			"nexthop add id 10 via " + nettest.SecondGatewayIPv4 + " dev enp7s0",
			"-6 nexthop add id 11 via " + nettest.SecondGatewayIPv6 + " dev enp7s0",
		},
		"a group": {
			"nexthop add id 1 via " + nettest.SecondGatewayIPv4 + " dev enp7s0",
			"nexthop add id 2 via " + nettest.PrimaryGatewayIPv4 + " dev eth0",
			"nexthop add id 10 group 1/2",
			"-6 nexthop add id 3 via " + nettest.SecondGatewayIPv6 + " dev enp7s0",
			"-6 nexthop add id 4 via " + nettest.PrimaryGatewayIPv6 + " dev eth0",
			"nexthop add id 11 group 3,5/4,2",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, nettest.LabOptions{}, "1.1.0")
			c.Node.Sysctl(t, "net.ipv4.nexthop_compat_mode", "0")
			ip := func(args string) { c.command(t, "ip", strings.Fields(args)...) }
			for _, hop := range hops {
				ip(hop)
			}
			ip("-6 nexthop add id 20 via " + nettest.PrimaryGatewayIPv6 + " dev eth0")
			ip("-6 route replace default nhid 20")
			// By these alone the server is reached from the link.
			ip("route add 203.0.113.0/24 nhid 10")
			ip("-6 route add 2001:db8:80::/64 nhid 11")
			require.NotContains(t, c.command(t, "ip", "-6", "route", "show", "default"), "dev")

			plain := c.newDirect(t, "plain", "10.244.1.6", "fd00:10:244::6", egressIP(nil))
			require.NotContains(t, plain.requirePasses(t, nil, paymentsPod), "WARN")
			require.Contains(t, c.command(t, "nft", "list", "table", "ip6", "egress_ip_probe"), `oifname "eth0"`)

			d := c.newDirect(t, "pod", "10.244.1.5", "fd00:10:244::5", egressIP(nil))
			d.add(t, both)
			d.requireSeen(t, egress4, egress6)
			for _, family := range []string{"-4", "-6"} {
				routes := c.command(t, "ip", family, "route", "show", "table", c.table(t))
				require.NotContains(t, routes, "dev eth0")
				require.NotContains(t, routes, "nhid")
			}
			done := c.person(t, nil, "status")
			require.Zero(t, done.exit, done.stdout)
			for _, command := range [][]string{{"resync"}, {"explain", "payments/pod"}} {
				done := c.person(t, nil, command...)
				require.Zero(t, done.exit, "%s%s", done.stdout, done.stderr)
			}
			_, err := d.call(t, "CHECK", both)
			require.NoError(t, err)
			d.del(t)
		})
	}
}
