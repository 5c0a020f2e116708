package integration

import (
	"net/netip"
	"testing"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
)

// TestProbedEgress: the load balancer's probe of a pod that has an IPv6 egress
// address is answered to the probe's source, by the uplink on which it came; and
// so is one of its Services.
func TestProbedEgress(t *testing.T) {
	t.Parallel()
	for name, annotated := range map[string]string{"IPv6": egress6, "both families": egress4 + "," + egress6} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, d := newServing(t, egressIP(nil))
			c.Router.AddAddress(t, nettest.RouterPrimaryLink, probeSource+"/64")
			d.ServeWhoAmI(t, nettest.WhoAmIPort)
			d.add(t, address(annotated))
			leaks := watchLeaks(t, c, d)
			if name == "IPv6" {
				leaks.except(servingIPv4)
			}
			watch := c.watchAnswers(t)
			links := watch.links
			atPod := d.Capture(t, "eth0")

			for range 2 { // before and among the pod's own connections
				for _, to := range []struct {
					address string
					port    uint16
					local   bool // the probe's source is kept
				}{
					{servingIPv6, nettest.WhoAmIPort, true},
					{nettest.PrimaryIPv6, localPort, true}, {nettest.PrimaryIPv6, clusterPort, false},
					{vipIPv6, localPort, true}, {vipIPv6, clusterPort, false},
				} {
					for _, capture := range links {
						capture.Reset()
					}
					from := netip.MustParseAddr(probeSource).WithZone(nettest.RouterPrimaryLink)
					saw, err := c.Router.AskFrom("tcp", from, endpoint(to.address, to.port))
					require.NoError(t, err, to.address)
					if to.local {
						require.Equal(t, probeTranslated, saw.String())
					} else {
						require.Contains(t, watch.node, saw)
					}
					answers := func(p nettest.Packet) bool {
						return !p.Outgoing && p.Src.String() == to.address && p.SrcPort == to.port
					}
					answered := false
					for _, p := range links[nettest.RouterPrimaryLink].Packets() {
						if answers(p) {
							answered = true
							require.Equal(t, probeSource, p.Dst.String())
						}
					}
					require.True(t, answered)
					require.Zero(t, links[nettest.RouterSecondLink].Count(answers))
				}
				require.Equal(t, egress6, d.sees(t, nettest.ServerAskIPv6))
			}
			require.NotZero(t, atPod.Count(func(p nettest.Packet) bool {
				return p.Outgoing && p.Dst.String() == probeTranslated && p.SrcPort == nettest.WhoAmIPort
			}))
			if name != "IPv6" {
				require.Equal(t, egress4, d.sees(t, nettest.ServerAskIPv4))
			}
			leaks.requireNoneFlushed(t, c)
		})
	}
}
