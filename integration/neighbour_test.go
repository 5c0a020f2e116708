package integration

import (
	"net/netip"
	"testing"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestAnnounce: the upstream router believes that the address is elsewhere; the
// first packets that it sends back already arrive.
func TestAnnounce(t *testing.T) {
	t.Parallel()
	c := newCluster(t, nettest.LabOptions{SecondDefault: true}, "1.0.0")
	d := c.newDirect(t, "pod", "10.244.1.5", "fd00:10:244::5", egressIP(nil))
	// The node knows the router, or its own solicitations would tell of the address.
	for _, router := range []string{nettest.SecondGatewayIPv4, nettest.SecondGatewayIPv6} {
		_, _ = c.Node.Ask("udp", netip.AddrPortFrom(netip.MustParseAddr(router), 9).String()) // nobody answers
	}
	for _, address := range []string{egress4, egress6} {
		cmd := []string{"neigh", "replace", address, "lladdr", "02:00:00:00:00:99", "dev", nettest.RouterSecondLink, "nud", "reachable"}
		c.on(t, c.Router, "ip", cmd...)
	}
	d.add(t, both)
	d.requireSeen(t, egress4, egress6)
}

// TestDuplicate: an address that another host answers for is refused, and the
// host named; the check is made on the first use alone, and can be switched off.
func TestDuplicate(t *testing.T) {
	t.Parallel()
	for _, family := range []struct{ address, prefix string }{{egress4, egress4 + "/32"}, {egress6, egress6 + "/128"}} {
		t.Run(family.address, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, nettest.LabOptions{SecondDefault: true}, "1.0.0")
			d := c.newDirect(t, "pod", "10.244.1.5", "fd00:10:244::5", egressIP(nil))
			d.add(t, nil)
			before := c.state(t)
			c.Router.AddAddress(t, nettest.RouterSecondLink, family.prefix)
			_, err := d.call(t, "ADD", both)
			require.ErrorContains(t, err, family.address)
			require.ErrorContains(t, err, c.Router.Link(t, nettest.RouterSecondLink).Attrs().HardwareAddr.String())
			require.ErrorContains(t, err, "duplicateCheck")
			require.Equal(t, before, c.state(t))

			d.entry["links"].([]object)[0]["duplicateCheck"] = false
			d.add(t, both)
			d.del(t)
			delete(d.entry["links"].([]object)[0], "duplicateCheck")

			c.Router.DeleteAddress(t, nettest.RouterSecondLink, family.prefix)
			questions := c.Router.Capture(t, nettest.RouterSecondLink)
			d.add(t, both)
			asked := questions.Count(isQuestion)
			require.NotZero(t, asked)
			other := c.newDirect(t, "other", "10.244.1.6", "fd00:10:244::6", d.entry)
			other.add(t, both)
			d.add(t, both)
			require.Equal(t, asked, questions.Count(isQuestion))
		})
	}
}

// isQuestion is a probe for an egress address.
func isQuestion(p nettest.Packet) bool {
	return p.EtherType == unix.ETH_P_ARP && p.Src.IsUnspecified() && p.Dst == netip.MustParseAddr(egress4) ||
		p.ICMPType == 135 && p.Target == netip.MustParseAddr(egress6)
}
