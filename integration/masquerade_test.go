package integration

import (
	"testing"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
)

// TestMasqueradeWithEgressAddress: a plain pod leaves by an egress link that has no usable address of its own for the moment,
// because it is being configured, or duplicate address detection is under way. Somebody's masquerade then finds nothing but
// an egress address. No connection leaves with that; once the link's own is back, they leave with it.
func TestMasqueradeWithEgressAddress(t *testing.T) {
	t.Parallel()
	g := newGuarded(t, nil)
	g.masquerade(t)
	plain := g.newDirect(t, "plain", "10.244.1.6", "fd00:10:244::6", egressIP(nil))
	plain.add(t, nil)
	g.command(t, "ip", "route", "replace", "203.0.113.0/24", "via", nettest.SecondGatewayIPv4, "dev", nettest.SecondLink, "onlink")
	g.command(t, "ip", "-6", "route", "replace", "2001:db8:80::/64", "via", nettest.SecondGatewayIPv6, "dev", nettest.SecondLink)
	g.Node.Sysctl(t, "net.ipv6.conf."+nettest.SecondLink+".use_oif_addrs_only", "1")
	plain.requireSeen(t, nettest.SecondIPv4, nettest.SecondIPv6)

	g.Node.DeleteAddress(t, nettest.SecondLink, nettest.SecondIPv4+"/24")
	g.Node.DeleteAddress(t, nettest.SecondLink, nettest.SecondIPv6+"/64")
	g.on(t, g.Router, "nft", "flush set inet seen seen4; flush set inet seen seen6")
	require.Zero(t, answered(plain, "udp", "tcp"))
	for _, egress := range rightSources {
		require.NotContains(t, g.sources(t), egress) // a late packet of the connections before may leave as it is
	}
	status, exit := g.egressIP(t, "status")
	require.Equal(t, 1, exit, status)
	require.Contains(t, status, "10.244.1.6")

	g.Node.AddAddress(t, nettest.SecondLink, nettest.SecondIPv4+"/24")
	g.Node.AddAddress(t, nettest.SecondLink, nettest.SecondIPv6+"/64")
	plain.requireSeen(t, nettest.SecondIPv4, nettest.SecondIPv6)
}
