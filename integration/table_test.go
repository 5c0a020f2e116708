package integration

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
)

// table is the number of enp7s0's table.
func (c *cluster) table(t testing.TB) string {
	t.Helper()
	return strconv.Itoa(1000 + c.Node.Index(t, nettest.SecondLink))
}

func withTable(c *cluster, t *testing.T, args []string) []string {
	t.Helper()
	args = slices.Clone(args)
	for i, a := range args {
		if a == "TABLE" {
			args[i] = c.table(t)
		}
	}
	return args
}

// jsonText is how a text stands inside a JSON string.
func jsonText(t *testing.T, s string) string {
	t.Helper()
	data, err := json.Marshal(s)
	require.NoError(t, err)
	return string(data[1 : len(data)-1])
}

// routes prints enp7s0's table in one family, sorted, as ip does.
func (c *cluster) routes(t *testing.T, family string) []string {
	t.Helper()
	out := c.command(t, "ip", family, "route", "show", "table", c.table(t))
	var lines []string
	for line := range strings.Lines(out) {
		line = strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(line), "pref medium"))
		if hop, isHop := strings.CutPrefix(line, "nexthop"); isHop {
			lines[len(lines)-1] += " nexthop" + hop
			continue
		}
		lines = append(lines, line)
	}
	slices.Sort(lines)
	return lines
}

// TestTable compares a link's table with what main has for the link, exactly.
func TestTable(t *testing.T) {
	t.Parallel()
	c := newCluster(t, nettest.LabOptions{SecondDefault: true, ThirdLink: true}, "1.0.0")
	for _, args := range []string{
		// Of all kinds that are to be kept ..
		"route add 198.51.100.0/24 via 192.168.124.7 dev enp7s0 metric 77 mtu 1400",
		"route add 198.51.101.0/24 via 198.18.0.1 dev enp7s0 onlink mtu lock 1380",
		"route add 198.51.102.0/24 nexthop via 192.168.124.7 dev enp7s0 weight 3 nexthop via 192.168.124.8 dev enp7s0",
		"route add 198.51.103.0/24 via inet6 fe80::7 dev enp7s0",
		"route add 198.51.105.0/24 dev enp7s0 src 192.168.124.10 proto static",
		"-6 route add 2001:db8:100::/64 via fd00:124::7 dev enp7s0 metric 77 mtu 1400",
		"-6 route add 2001:db8:102::/64 nexthop via fd00:124::7 dev enp7s0 weight 3 nexthop via fd00:124::8 dev enp7s0",
		"-6 route add 2001:db8:103::/64 via fe80::7 dev enp7s0",
		// .. in part ..
		"route add 198.51.104.0/24 nexthop via 192.168.124.7 dev enp7s0 nexthop via 192.168.125.7 dev enp8s0",
		"-6 route add 2001:db8:104::/64 nexthop via fd00:124::7 dev enp7s0 nexthop via fd00:125::7 dev enp8s0",
		// .. and not: inside a cluster network, by another link, by none.
		"route add 10.244.9.0/24 via 192.168.124.9 dev enp7s0",
		"route add 198.51.106.0/24 via 192.168.125.7 dev enp8s0",
		"route add blackhole 198.51.107.0/24",
	} {
		c.command(t, "ip", strings.Fields(args)...)
	}
	d := c.newDirect(t, "pod", "10.244.1.5", "fd00:10:244::5", egressIP(nil))
	d.add(t, both)

	require.Equal(t, []string{
		"198.51.100.0/24 via 192.168.124.7 dev enp7s0 proto kernel metric 77 mtu 1400",
		"198.51.101.0/24 via 198.18.0.1 dev enp7s0 proto kernel onlink mtu lock 1380",
		"198.51.102.0/24 proto kernel nexthop via 192.168.124.7 dev enp7s0 weight 3 nexthop via 192.168.124.8 dev enp7s0 weight 1",
		"198.51.103.0/24 via inet6 fe80::7 dev enp7s0 proto kernel",
		"198.51.104.0/24 via 192.168.124.7 dev enp7s0 proto kernel",
		"198.51.105.0/24 dev enp7s0 proto kernel scope link",
		"192.168.124.0/24 dev enp7s0 proto kernel scope link",
		"default via 192.168.124.1 dev enp7s0 proto kernel metric 200",
		"throw 10.96.0.0/12 proto kernel",
		"throw 10.244.0.0/16 proto kernel",
		"throw 10.244.1.5 proto kernel",
		"unreachable default proto kernel metric 4278198272",
	}, inOrder(c.routes(t, "-4"), "198", "192", "default", "throw 10.96", "throw", "unreachable"))
	require.Equal(t, []string{
		"2001:db8:100::/64 via fd00:124::7 dev enp7s0 proto kernel metric 77 mtu 1400",
		"2001:db8:102::/64 proto kernel metric 1024 nexthop via fd00:124::7 dev enp7s0 weight 3 nexthop via fd00:124::8 dev enp7s0 weight 1",
		"2001:db8:103::/64 via fe80::7 dev enp7s0 proto kernel metric 1024",
		"2001:db8:104::/64 via fd00:124::7 dev enp7s0 proto kernel metric 1024",
		"default via fd00:124::1 dev enp7s0 proto kernel metric 2048",
		"fd00:124::/64 dev enp7s0 proto kernel metric 256",
		"throw fd00:10:244::/56 dev lo proto kernel metric 1024",
		"throw fd00:10:244::5 dev lo proto kernel metric 1024",
		"unreachable default dev lo proto kernel metric 4278198272",
	}, c.routes(t, "-6"))
	d.requireSeen(t, egress4, egress6)

	// A later ADD brings the table up to date; somebody else's route in it stays.
	before4, before6 := c.routes(t, "-4"), c.routes(t, "-6")
	for _, args := range []string{
		"route del 198.51.100.0/24",
		"route replace 198.51.102.0/24 via 192.168.124.9 dev enp7s0",
		"route add 198.51.108.0/24 via 192.168.124.9 dev enp7s0",
		"-6 route del 2001:db8:100::/64",
		"-6 route del 2001:db8:102::/64",
		"-6 route add 2001:db8:102::/64 via fd00:124::9 dev enp7s0",
		"route add 198.51.109.0/24 via 192.168.124.9 dev enp7s0 proto static table " + c.table(t),
	} {
		c.command(t, "ip", strings.Fields(args)...)
	}
	other := c.newDirect(t, "other", "10.244.1.6", "fd00:10:244::6", egressIP(object{"clusterCIDRs": []string{"10.244.0.0/16"}}))
	other.add(t, address("192.168.124.98,fd00:124::98"))
	require.ElementsMatch(t, append(slices.DeleteFunc(before4, func(r string) bool {
		return strings.HasPrefix(r, "198.51.100.") || strings.HasPrefix(r, "198.51.102.") || strings.HasPrefix(r, "throw 10.96.")
	}),
		"198.51.102.0/24 via 192.168.124.9 dev enp7s0 proto kernel",
		"198.51.108.0/24 via 192.168.124.9 dev enp7s0 proto kernel",
		"198.51.109.0/24 via 192.168.124.9 dev enp7s0 proto static",
		"throw 10.244.1.6 proto kernel",
	), c.routes(t, "-4"))
	// IPv6 has no cluster network in the new configuration, so main's routes stand in.
	require.ElementsMatch(t, append(slices.DeleteFunc(before6, func(r string) bool {
		return strings.HasPrefix(r, "2001:db8:100:") || strings.HasPrefix(r, "2001:db8:102:") || strings.HasPrefix(r, "throw fd00:10:244::/56")
	}),
		"2001:db8:102::/64 via fd00:124::9 dev enp7s0 proto kernel metric 1024",
		"throw 2001:db8:1::/64 dev lo proto kernel metric 1024",
		"throw fd00:125::/64 dev lo proto kernel metric 1024",
		"throw fd00:10:244::6 dev lo proto kernel metric 1024",
	), c.routes(t, "-6"))
	d.requireSeen(t, egress4, egress6)
	other.requireSeen(t, "192.168.124.98", "fd00:124::98")

	other.del(t)
	d.del(t)
	require.Equal(t, []string{"198.51.109.0/24 via 192.168.124.9 dev enp7s0 proto static"}, c.routes(t, "-4"))
	require.Empty(t, c.routes(t, "-6"))
}

// inOrder sorts lines by the first of the prefixes that each has.
func inOrder(lines []string, prefixes ...string) []string {
	rank := func(line string) int {
		return slices.IndexFunc(prefixes, func(p string) bool { return strings.HasPrefix(line, p) })
	}
	slices.SortStableFunc(lines, func(a, b string) int { return rank(a) - rank(b) })
	return lines
}

// TestTableDefaults: where main has no default for the link.
func TestTableDefaults(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		gateways []string
		want     []string
	}{
		"on the link": {nil, []string{
			"default dev enp7s0 proto kernel scope link",
			"default dev enp7s0 proto kernel metric 1024",
		}},
		"by the configured gateways": {[]string{"192.168.124.1", "fd00:124::1"}, []string{
			"default via 192.168.124.1 dev enp7s0 proto kernel",
			"default via fd00:124::1 dev enp7s0 proto kernel metric 1024",
		}},
		"by gateways outside the link's networks": {[]string{"198.18.0.1", "fe80::1"}, []string{
			"default via 198.18.0.1 dev enp7s0 proto kernel onlink",
			"default via fe80::1 dev enp7s0 proto kernel metric 1024",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, nettest.LabOptions{}, "1.0.0")
			entry := egressIP(nil)
			entry["links"].([]object)[0]["gateways"] = tt.gateways
			d := c.newDirect(t, "pod", "10.244.1.5", "fd00:10:244::5", entry)
			d.add(t, both)
			require.Contains(t, c.routes(t, "-4"), tt.want[0])
			require.Contains(t, c.routes(t, "-6"), tt.want[1])
		})
	}
}

// TestTableBypass: what the cluster's networks are when none is configured, and
// that packets for them are neither sent by the link nor translated.
func TestTableBypass(t *testing.T) {
	t.Parallel()
	c := newCluster(t, nettest.LabOptions{SecondDefault: true, ThirdLink: true}, "1.0.0")
	// The server's network, as if it were another node's pods, by the primary link.
	c.command(t, "ip", "route", "add", "203.0.113.0/24", "via", nettest.PrimaryGatewayIPv4)
	c.command(t, "ip", "-6", "route", "add", "2001:db8:80::/64", "via", nettest.PrimaryGatewayIPv6)
	c.Router.AddRoute(t, nettest.Route{Dst: "10.244.1.0/24", Via: nettest.PrimaryIPv4})
	c.Router.AddRoute(t, nettest.Route{Dst: "fd00:10:244::/64", Via: nettest.PrimaryIPv6})
	entry := egressIP(nil)
	delete(entry, "clusterCIDRs")
	d := c.newDirect(t, "pod", "10.244.1.5", "fd00:10:244::5", entry)
	d.add(t, both)
	for _, network := range []string{"203.0.113.0/24", "192.0.2.0/24", "192.168.125.0/24", "10.244.1.5"} {
		require.Contains(t, c.routes(t, "-4"), fmt.Sprintf("throw %s proto kernel", network))
	}
	d.requireSeen(t, "10.244.1.5", "fd00:10:244::5")

	// The same when the configuration names it.
	d.del(t)
	d.entry["clusterCIDRs"] = []string{"203.0.113.0/24", "2001:db8:80::/64"}
	d.add(t, both)
	d.requireSeen(t, "10.244.1.5", "fd00:10:244::5")
}

// TestTableBypassLater: main's specific routes decide also when they come later: another
// pod's with that pod's ADD, whatever it is, and another node's with a resync.
func TestTableBypassLater(t *testing.T) {
	t.Parallel()
	c := newCluster(t, nettest.LabOptions{SecondDefault: true}, "1.0.0")
	c.Router.AddRoute(t, nettest.Route{Dst: "10.244.1.0/24", Via: nettest.PrimaryIPv4})
	c.Router.AddRoute(t, nettest.Route{Dst: "fd00:10:244::/64", Via: nettest.PrimaryIPv6})
	entry := egressIP(nil)
	delete(entry, "clusterCIDRs")
	d := c.newDirect(t, "pod", "10.244.1.5", "fd00:10:244::5", entry)
	d.add(t, both)
	d.requireSeen(t, egress4, egress6)

	other := c.newDirect(t, "other", "10.244.1.6", "fd00:10:244::6", entry)
	other.ServeWhoAmI(t, nettest.WhoAmIPort)
	other.add(t, nil)
	require.Equal(t, "10.244.1.5", d.sees(t, "10.244.1.6:8080"))
	require.Equal(t, "fd00:10:244::5", d.sees(t, "[fd00:10:244::6]:8080"))

	c.command(t, "ip", "route", "add", "203.0.113.0/24", "via", nettest.PrimaryGatewayIPv4)
	c.command(t, "ip", "-6", "route", "add", "2001:db8:80::/64", "via", nettest.PrimaryGatewayIPv6)
	out, exit := c.egressIP(t, "resync")
	require.Zero(t, exit, out)
	d.requireSeen(t, "10.244.1.5", "fd00:10:244::5")
	_, err := d.call(t, "CHECK", both)
	require.NoError(t, err)
}
