package integration

import (
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestResync: every disaster is healed by one resync, see [healBy].
func TestResync(t *testing.T) {
	t.Parallel()
	healBy(t, byResync)
}

// resync calls it, and returns what it has done.
func (c *cluster) resync(t *testing.T) string {
	t.Helper()
	out, exit := c.egressIP(t, "resync")
	require.Zero(t, exit)
	return out
}

// TestResyncWhileDown: as long as a link is not there its pods stay closed, and a
// resync, whatever else has happened, has no more to do in the second call. When the link
// comes back, another one puts its pods back.
func TestResyncWhileDown(t *testing.T) {
	t.Parallel()
	down := func(t *testing.T, c *cluster) { second.down(t, c) }
	gone := func(t *testing.T, c *cluster) { c.Node.DeleteLink(t, nettest.SecondLink) }
	for name, d := range map[string]disaster{
		"down":              {do: down, daemon: second.up},
		"down, all deleted": {do: inOrderOf(everythingOfOurs, down), daemon: inOrderOf(masquerade, second.up), wide: true},
		"down, then all deleted": {do: inOrderOf(down, deleteRules(5998, 6001), run("ip -FAMILY route flush table TABLE", "nft flush ruleset",
			"ip address del "+egress4+"/32 dev enp7s0")), daemon: inOrderOf(masquerade, second.up), wide: true},
		"deleted":              {do: gone, daemon: second.remake},
		"deleted, all deleted": {do: inOrderOf(everythingOfOurs, gone), daemon: inOrderOf(masquerade, second.remake), wide: true},
		"no carrier": {do: func(t *testing.T, c *cluster) { c.Router.SetDown(t, nettest.RouterSecondLink) }, daemon: func(t *testing.T, c *cluster) {
			c.Router.SetUp(t, nettest.RouterSecondLink)
			c.Router.WaitUsable(t, nettest.RouterSecondLink)
			c.Router.AddAddress(t, nettest.RouterSecondLink, nettest.SecondGatewayIPv6+"/64")
			c.Node.WaitUsable(t, nettest.SecondLink)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStricken(t, nil, nil)
			before := s.whole(t)
			connections := s.establish(t)
			var asks *asking
			if !d.wide {
				asks = s.keepFarAsking(t)
			}
			d.do(t, s.cluster)
			s.resync(t)
			for range 2 {
				s.requireRefused(t)
				s.requireNothingToDo(t)
			}
			d.daemon(t, s.cluster)
			s.resync(t)
			s.requireHealed(t, connections, nil)
			if asks != nil {
				asks.requireAll(t)
			}
			require.Equal(t, before, s.whole(t))
			s.requireNothingToDo(t)
		})
	}
}

// requireRefused: what the pods of enp7s0 send comes back as unreachable, and
// nothing of it leaves by the primary link.
func (s *stricken) requireRefused(t *testing.T) {
	t.Helper()
	primary := s.Router.Capture(t, nettest.RouterPrimaryLink)
	defer primary.Stop()
	for _, d := range s.tenants[:len(s.tenants)-1] {
		atPod := d.Capture(t, "eth0")
		for _, w := range d.ways() {
			const unreachable4, unreachable6 = 3, 1
			refusal := nettest.Packet{Protocol: unix.IPPROTO_ICMPV6, ICMPType: unreachable6}
			if netip.MustParseAddrPort(w.server).Addr().Is4() {
				refusal = nettest.Packet{Protocol: unix.IPPROTO_ICMP, ICMPType: unreachable4}
			}
			require.Eventually(t, func() bool { // the node says so once a second
				fd := openFrom(t, d.Namespace, unix.SOCK_DGRAM, 0, w.server)
				_, _ = unix.Write(fd, []byte("?"))
				unix.Close(fd)
				return atPod.Count(func(p nettest.Packet) bool {
					return p.Protocol == refusal.Protocol && p.ICMPType == refusal.ICMPType
				}) > 0
			}, waitFor, tick, "%s %s", d.id, w.server)
		}
		atPod.Stop()
	}
	require.Zero(t, primary.Count(func(p nettest.Packet) bool { return p.DstPort == nettest.WhoAmIPort }))
}

// TestResyncFlap: a link is down for two seconds, and what pods' connections were
// sending arrives when it is back.
func TestResyncFlap(t *testing.T) {
	t.Parallel()
	healFlap(t, byResync)
}

func healFlap(t *testing.T, begin healer) {
	s := newStricken(t, nil, nil)
	before := s.whole(t)
	heal := begin(t, s)
	connections := s.establish(t)
	second.down(t, s.cluster)
	var sending []lasting
	for _, c := range connections {
		if c.LocalAddr().Network() == "tcp" {
			_, err := c.Write([]byte("?"))
			require.NoError(t, err)
			sending = append(sending, c)
		}
	}
	time.Sleep(2 * time.Second) // as long as a cable is out
	second.up(t, s.cluster)
	heal(func() bool { return before == s.whole(t) })
	for _, c := range sending {
		answer := make([]byte, 64)
		require.NoError(t, c.SetDeadline(time.Now().Add(waitFor)))
		n, err := c.Read(answer)
		require.NoError(t, err, c.name)
		require.Equal(t, c.want, string(answer[:n]), c.name)
	}
	s.requireHealed(t, connections, nil)
}

// TestResyncPending: a connection that a pod begins while its translation is
// missing, and that nobody answers, is translated from its next packet on.
func TestResyncPending(t *testing.T) {
	t.Parallel()
	c := newNode(t)
	d := c.newTenant(t, nil, "pod", "10.244.1.5", "fd00:10:244::5", egress4, egress6)
	d.attach(t)
	nft("delete element inet egress_ip snatN { FIRST . enp7s0 }")(t, c)
	sent := d.Capture(t, "eth0")
	type result struct{ saw, want string }
	results := make(chan result)
	for _, w := range d.ways() {
		go func() {
			var saw string
			d.Do(t, func() {
				conn, err := net.DialTimeout("tcp", w.server, waitFor)
				if err != nil {
					saw = err.Error()
					return
				}
				defer conn.Close()
				answer := make([]byte, 64)
				n, _ := conn.Read(answer)
				saw = string(answer[:n])
			})
			results <- result{saw, w.egress}
		}()
	}
	for _, pod := range d.addresses {
		require.Eventually(t, func() bool {
			return sent.Count(func(p nettest.Packet) bool {
				return p.Outgoing && p.Src.String() == pod && p.DstPort == nettest.WhoAmIPort
			}) > 0
		}, waitFor, tick)
	}
	c.resync(t)
	for range d.ways() {
		r := <-results
		require.Equal(t, r.want, r.saw)
	}
}

// TestResyncUnrecorded: without a record, all that is egress-ip's goes, but for the
// addresses, which are known by the record alone. Pods leave as plain ones, with
// their old connections too.
func TestResyncUnrecorded(t *testing.T) {
	t.Parallel()
	for name, config := range map[string]object{"": nil, "other priority": {"rulePriority": 7010, "tableBase": 7000}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, nettest.LabOptions{SecondDefault: true, ThirdLink: true}, "1.0.0")
			c.masquerade(t)
			first := c.newTenant(t, config, "first", "10.244.1.5", "fd00:10:244::5", egress4, egress6)
			far := c.newTenant(t, config, "far", "10.244.1.9", "fd00:10:244::9", third4, third6)
			before := c.whole(t)
			for _, d := range []*tenant{first, far} {
				d.attach(t)
				for _, w := range d.ways() {
					require.Equal(t, w.egress, askFrom(t, d.Namespace, "udp", 5000, w.server))
				}
			}
			require.NoError(t, os.RemoveAll(c.recordDir(t)))
			c.resync(t)
			c.requireNothingToDo(t)
			for _, d := range []*tenant{first, far} {
				require.Equal(t, nettest.PrimaryIPv4, askFrom(t, d.Namespace, "udp", 5000, nettest.ServerAskIPv4))
				require.Equal(t, nettest.PrimaryIPv6, askFrom(t, d.Namespace, "udp", 5000, nettest.ServerAskIPv6))
				d.requireSeen(t, nettest.PrimaryIPv4, nettest.PrimaryIPv6)
			}
			// And who has set the sysctl.
			clearMark(t, c)
			run("ip address del "+egress4+"/32 dev enp7s0", "ip address del "+egress6+"/128 dev enp7s0",
				"ip address del "+third4+"/32 dev enp8s0", "ip address del "+third6+"/128 dev enp8s0")(t, c)
			require.Equal(t, before, c.whole(t))
		})
	}
}

// TestResyncForeign: what is somebody else's stays, whatever its name or place.
func TestResyncForeign(t *testing.T) {
	t.Parallel()
	c := newNode(t)
	run("nft table inet egress_ip { chain prerouting { type filter hook prerouting priority 0; accept; }; chain theirs { accept; }; }",
		"nft table ip6 egress_ip_probe { chain theirs { accept; }; }",
		"ip -FAMILY rule add pref 6000 iif eth0 lookup 7777", "ip -FAMILY rule add pref 6001 fwmark 7 lookup 7777",
		"ip rule add pref 6000 from 10.244.1.5 lookup 1003", "ip -6 rule add pref 6000 from fd00:10:244::5 lookup 1003",
		"ip -FAMILY rule add pref 6001 fwmark 0x7 lookup 7777 proto kernel",
		"ip -FAMILY route add unreachable default metric 4278198272 table 7777",
		"ip route add throw 198.18.0.0/15 table 1003", "ip -6 route add throw 2001:db8:18::/48 table 1003",
		"ip address add 192.168.124.99/32 dev enp7s0",
	)(t, c)
	c.requireNothingToDo(t)

	// Beside pods of ours, too.
	run("nft delete table inet egress_ip", "ip -FAMILY rule del pref 6000", "ip -FAMILY rule del pref 6000",
		"ip -FAMILY rule del pref 6001 fwmark 7", "ip -FAMILY rule del pref 6001 fwmark 7", "ip -FAMILY route flush table 1003",
		"ip address del 192.168.124.99/32 dev enp7s0")(t, c)
	d := c.newTenant(t, nil, "pod", "10.244.1.5", "fd00:10:244::5", egress4, egress6)
	d.attach(t)
	run("ip route add throw 198.18.0.0/15 table 1003", "ip -6 route add throw 2001:db8:18::/48 table 1003", "nft add chain inet egress_ip theirs", "nft add set inet egress_ip theirs { type ipv4_addr; }",
		"ip rule add pref 6000 from 10.244.1.99 lookup 1003", "ip -FAMILY rule add pref 6001 fwmark 7 lookup 7777 proto kernel",
		"ip address add 192.0.2.77/32 dev eth0")(t, c)
	c.requireNothingToDo(t)
	before := c.whole(t)
	run("ip -FAMILY rule del pref 5998", "ip -FAMILY route flush table TABLE proto kernel", "nft flush chain inet egress_ip prerouting")(t, c)
	c.resync(t)
	require.Equal(t, before, c.whole(t))
	d.requireSeen(t, egress4, egress6)
}
