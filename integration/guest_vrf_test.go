//go:build guest

package integration

import (
	"cmp"
	"fmt"
	"strings"
	"testing"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
)

// enslave puts enp7s0 into a VRF of its own, as an administrator does before there are pods, or
// later: the kernel moves its routes, and takes its IPv6 addresses away.
const enslave = `
	ip link show red >/dev/null 2>&1 || ip link add red type vrf table 10
	ip link set red up
	ip link set enp7s0 master red
	ip -6 address replace fd00:124::10/64 dev enp7s0 nodad
`

// newVRF is a cluster whose enp7s0 is in a VRF. Main leads to the server by eth0: what
// leaves by the egress link does so all the same.
func newVRF(t *testing.T, more string) *cluster {
	t.Helper()
	c := newCluster(t, nettest.LabOptions{}, "1.0.0")
	c.command(t, "sh", "-ec", enslave+more+`
		ip route add 203.0.113.0/24 via 192.0.2.1
		ip -6 route add 2001:db8:80::/64 via 2001:db8:1::1
	`)
	return c
}

const (
	vrfDefaults = `
		ip route add default via 192.168.124.1 table 10
		ip -6 route add default via fd00:124::1 table 10
	`
	vrfClosed = `
		ip route add unreachable default metric 4278198272 table 10
		ip -6 route add unreachable default metric 4278198272 table 10
	`
)

// withGateways is egress-ip's entry with next hops for enp7s0.
func withGateways() object {
	links := egressIP(nil)["links"].([]object)
	links[0]["gateways"] = []string{nettest.SecondGatewayIPv4, nettest.SecondGatewayIPv6}
	return egressIP(object{"links": links})
}

// requirePings: echo requests are answered.
func (d *direct) requirePings(t *testing.T) {
	t.Helper()
	for _, server := range []string{nettest.ServerIPv4, nettest.ServerIPv6} {
		d.cluster.on(t, d.Namespace, "ping", "-c", "1", "-W", "10", server)
	}
}

// TestGuestVRF: an egress link in a VRF works as any other, wherever its default route is, with
// every setting of the reverse path filter, and without a route to the pods in the VRF's table.
func TestGuestVRF(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		routes string
		entry  object
	}{
		"default in the VRF's table": {vrfDefaults + vrfClosed, egressIP(nil)},
		"gateways":                   {"", withGateways()},
		"gateways, and nothing else": {vrfClosed, withGateways()},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newVRF(t, tt.routes)
			d := c.newDirect(t, "pod", "10.244.1.5", "fd00:10:244::5", tt.entry)
			c.Node.Sysctl(t, "net.ipv4.conf.all.rp_filter", "1")
			d.add(t, both)
			leaks := watchLeaks(t, c, d)
			for _, filter := range []string{"1", "2", "0"} {
				c.Node.Sysctl(t, "net.ipv4.conf.all.rp_filter", filter)
				d.requireSeen(t, egress4, egress6)
				d.requirePings(t)
			}
			_, err := d.call(t, "CHECK", both)
			require.NoError(t, err)
			c.status(t, 0)
			for _, server := range []string{nettest.ServerIPv4, nettest.ServerIPv6} {
				d.requireExplained(t, server, 0)
			}
			leaks.requireNone(t)
			d.del(t)
			c.requireNoAttachment(t)
			require.Empty(t, c.srcValidMark(t))
			require.NotContains(t, c.command(t, "sh", "-c", "ip rule; ip -6 rule"), "fwmark")
		})
	}
}

// TestGuestVRFInbound: a connection to an annotated pod that comes by a VRF, to an address of the
// egress link, is answered by it. Pods reach each other.
func TestGuestVRFInbound(t *testing.T) {
	t.Parallel()
	c := newVRF(t, vrfDefaults)
	c.load(t, `
		table ip ports {
			chain prerouting {
				type nat hook prerouting priority dstnat
				ip daddr 192.168.124.10 meta l4proto { tcp, udp } th dport 30080 dnat to 10.244.1.5:8080
			}
		}
		table ip6 ports {
			chain prerouting {
				type nat hook prerouting priority dstnat
				ip6 daddr fd00:124::10 meta l4proto { tcp, udp } th dport 30080 dnat to [fd00:10:244::5]:8080
			}
		}
	`, "nft", "-f")
	d := c.newDirect(t, "pod", "10.244.1.5", "fd00:10:244::5", egressIP(nil))
	other := c.newDirect(t, "other", "10.244.1.6", "fd00:10:244::6", egressIP(nil))
	d.ServeWhoAmI(t, nettest.WhoAmIPort)
	d.add(t, both)
	other.add(t, both)
	leaks := watchLeaks(t, c, d, other)
	answers := c.watchAnswers(t)
	for node, server := range map[string]string{nettest.SecondIPv4: nettest.ServerIPv4, nettest.SecondIPv6: nettest.ServerIPv6} {
		answers.require(t, wayIn{"by the VRF", c.Server, server, endpoint(node, localPort), nettest.RouterSecondLink, server})
	}
	require.Equal(t, "10.244.1.6", other.sees(t, endpoint("10.244.1.5", nettest.WhoAmIPort)))
	require.Equal(t, "fd00:10:244::6", other.sees(t, endpoint("fd00:10:244::5", nettest.WhoAmIPort)))
	other.requireSeen(t, egress4, egress6)
	leaks.requireNone(t)
}

// TestGuestVRFChanges: the link gets into a VRF while pods use it, the rule for VRFs moves, the
// link leaves the VRF. A resync follows; a call says what is wrong where one is needed.
func TestGuestVRFChanges(t *testing.T) {
	t.Parallel()
	c := newCluster(t, nettest.LabOptions{}, "1.0.0")
	d := c.newDirect(t, "pod", "10.244.1.5", "fd00:10:244::5", withGateways())
	c.Node.Sysctl(t, "net.ipv4.conf.all.rp_filter", "1")
	d.add(t, both)
	const moved = "ip rule add pref 3000 l3mdev protocol kernel; ip rule del pref 1000; ip -6 rule add pref 3000 l3mdev protocol kernel; ip -6 rule del pref 1000"
	for _, change := range []struct{ name, script, rule string }{
		{"into a VRF", enslave, "998:\tfrom all fwmark"},
		{"the rule for VRFs moves", moved, "2998:\tfrom all fwmark"},
		{"out of the VRF", "ip link set enp7s0 nomaster; ip -6 address replace fd00:124::10/64 dev enp7s0 nodad", ""},
	} {
		c.command(t, "sh", "-ec", change.script)
		_, exit := c.egressIP(t, "resync")
		require.Zero(t, exit, change.name)
		for _, family := range []string{"-4", "-6"} {
			require.Equal(t, change.rule != "", strings.Contains(c.command(t, "ip", family, "rule"), cmp.Or(change.rule, "suppress_prefixlength 0")))
		}
		d.requireSeen(t, egress4, egress6)
		c.status(t, 0)
	}
	d.del(t)
	c.requireNoAttachment(t)
}

// TestGuestVRFPod: a pod whose link on the node is in the VRF of the egress link, with its route
// there, and with one in main, too.
func TestGuestVRFPod(t *testing.T) {
	t.Parallel()
	c := newVRF(t, vrfDefaults)
	var pods []sandbox
	for i, tables := range [][]string{{"10"}, {"10", "main"}} {
		four, six := fmt.Sprintf("10.244.1.%d", 5+i), fmt.Sprintf("fd00:10:244::%d", 5+i)
		d := c.newDirect(t, four, four, six, egressIP(nil))
		c.command(t, "ip", "link", "set", d.HostLink, "master", "red")
		for _, table := range tables {
			c.command(t, "ip", "route", "replace", four, "dev", d.HostLink, "table", table)
			c.command(t, "ip", "-6", "route", "replace", six, "dev", d.HostLink, "table", table)
		}
		d.add(t, both)
		pods = append(pods, d)
	}
	leaks := watchLeaks(t, c, pods...)
	for _, p := range pods {
		p.(*direct).requireSeen(t, egress4, egress6)
	}
	leaks.requireNone(t)
}
