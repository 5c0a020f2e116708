package integration

import (
	"testing"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestFailClosed: when the link goes down, or loses its routes, an annotated
// pod's packets are refused, and none leaves by the primary link.
func TestFailClosed(t *testing.T) {
	t.Parallel()
	for name, fail := range map[string]func(t *testing.T, c *cluster){
		"link down": func(t *testing.T, c *cluster) { c.Node.SetDown(t, nettest.SecondLink) },
		"carrier lost, routes withdrawn": func(t *testing.T, c *cluster) {
			c.Router.SetDown(t, nettest.RouterSecondLink)
			for _, family := range []string{"-4", "-6"} {
				c.command(t, "ip", family, "route", "flush", "table", c.table(t), "type", "unicast")
			}
		},
		"link deleted": func(t *testing.T, c *cluster) { c.Node.DeleteLink(t, nettest.SecondLink) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, nettest.LabOptions{SecondDefault: true}, "1.0.0")
			d := c.newDirect(t, "pod", "10.244.1.5", "fd00:10:244::5", egressIP(nil))
			plain := c.newDirect(t, "plain", "10.244.1.6", "fd00:10:244::6", egressIP(nil))
			d.add(t, both)
			plain.add(t, nil)
			d.requireSeen(t, egress4, egress6)

			primary := c.Router.Capture(t, nettest.RouterPrimaryLink)
			atPod := d.Capture(t, "eth0")
			fail(t, c)
			require.Zero(t, answered(d, "tcp", "udp"))
			// The node says so at once. (TCP over IPv6 takes it for a passing fault.)
			require.NotZero(t, atPod.Count(func(p nettest.Packet) bool {
				return p.Protocol == unix.IPPROTO_ICMP && p.ICMPType == 3
			}))
			require.NotZero(t, atPod.Count(func(p nettest.Packet) bool {
				return p.Protocol == unix.IPPROTO_ICMPV6 && p.ICMPType == 1
			}))
			require.Zero(t, primary.Count(func(p nettest.Packet) bool { return p.DstPort == nettest.WhoAmIPort }))

			// A plain pod's do leave there (the router has no way back to it).
			_, err := plain.Ask("udp", nettest.ServerAskIPv4)
			require.Error(t, err)
			require.NotZero(t, primary.Count(func(p nettest.Packet) bool { return p.DstPort == nettest.WhoAmIPort }))
		})
	}
}
