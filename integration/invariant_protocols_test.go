package integration

import (
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
)

// TestInvariant1EveryProtocol attacks with what a pod may send: packets of every protocol number, whole and
// truncated, with headers that say nothing right; among them are IPv6 extension headers, ICMP errors about
// nothing, and fragments that never become a packet. What arrives has come by the egress link, from the egress address.
func TestInvariant1EveryProtocol(t *testing.T) {
	t.Parallel()
	for name, plugin := range map[string]func(t *testing.T) object{
		"ptp": ptp, "bridge": func(t *testing.T) object { return bridge(t, "nftables") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, nettest.LabOptions{SecondDefault: true}, "1.0.0", plugin(t), egressIP(nil))
			p := c.add(t, both)
			pod4, pod6 := p.global(t)
			links := map[string]*nettest.Capture{}
			for _, link := range []string{nettest.RouterPrimaryLink, nettest.RouterSecondLink} {
				links[link] = c.Router.Capture(t, link)
			}
			server4, server6 := netip.MustParseAddr(nettest.ServerIPv4), netip.MustParseAddr(nettest.ServerIPv6)
			sent := 0
			send := func(protocol int, payload []byte) {
				p.sendRaw(t, ipPacket(pod4, server4, byte(protocol), -1, payload), server4)
				p.sendRaw(t, ipPacket(pod6, server6, byte(protocol), -1, payload), server6)
				sent += 2
			}
			r := rand.New(rand.NewPCG(newSeed(t), 0))
			for protocol := range 256 {
				for _, length := range []int{0, 1, 4, 7, 8, 16, 20, 32, 60} {
					payload := make([]byte, length)
					send(protocol, payload)
					for i := range payload {
						payload[i] = byte(r.Uint32())
					}
					send(protocol, payload)
					if length < 8 {
						continue
					}
					payload[0], payload[1] = 17, 0 // an extension header of 8 bytes; UDP follows
					send(protocol, payload)
					payload[2], payload[3] = 0, 1 // a fragment header: the first of several
					send(protocol, payload)
				}
				time.Sleep(time.Millisecond)
			}
			time.Sleep(100 * time.Millisecond)
			arrived := 0
			for name, link := range links {
				for _, packet := range link.Packets() {
					if packet.Outgoing || !packet.Src.IsGlobalUnicast() || packet.Dst != server4 && packet.Dst != server6 {
						continue
					}
					arrived++
					require.Equal(t, nettest.RouterSecondLink, name, "%s", packet)
					require.Contains(t, []string{egress4, egress6}, packet.Src.String(), "%s", packet)
				}
				link.Stop()
			}
			t.Logf("%d of %d packets have arrived", arrived, sent)
			require.Greater(t, arrived, sent/2)
		})
	}
}
