package integration

import (
	"strings"
	"testing"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
)

// foreignRoutes are routes of somebody else's in a link's table, as ip adds and shows them.
var foreignRoutes = map[string]struct{ family, route string }{
	"a default route":              {"-4", "default via 192.0.2.1 dev eth0"},
	"half of one":                  {"-4", "128.0.0.0/1 via 192.0.2.1 dev eth0"},
	"an IPv6 default route":        {"-6", "default via 2001:db8:1::1 dev eth0 proto static metric 512"},
	"a network of a VRF":           {"-4", "192.0.2.0/24 dev eth0 proto kernel scope link"},
	"an address of a VRF":          {"-4", "local 192.0.2.10 dev eth0 proto kernel scope host"},
	"what closes a VRF":            {"-4", "unreachable default metric 4278198000"},
	"a hole":                       {"-4", "blackhole 198.51.100.0/24 proto static"},
	"a throw":                      {"-4", "throw 198.51.100.0/24 proto static"},
	"an IPv6 route for one source": {"-6", "default from fd00:10:244::/64 via 2001:db8:1::1 dev eth0 proto static metric 512"},
	"an IPv6 network of a VRF":     {"-6", "2001:db8:1::/64 dev eth0 proto kernel metric 256"},
}

// TestForeignTable: a link's table that somebody else uses is not taken at its first use.
// What is in it stays, whatever calls follow.
func TestForeignTable(t *testing.T) {
	t.Parallel()
	for name, tt := range foreignRoutes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, nettest.LabOptions{SecondDefault: true}, "1.1.0")
			d := c.newDirect(t, "pod", "10.244.1.5", "fd00:10:244::5", egressIP(nil))
			c.addToTable(t, tt.family, tt.route)
			d.add(t, nil)
			before := c.state(t)
			_, err := d.call(t, "ADD", both)
			require.ErrorContains(t, err, `"code": 103`)
			for _, want := range []string{"table " + c.table(t), "enp7s0", "tableBase", strings.Fields(tt.route)[0]} {
				require.ErrorContains(t, err, want)
			}
			require.Equal(t, before, c.state(t))
			d.del(t)
			_, exit := c.egressIP(t, "resync")
			require.Zero(t, exit)
			_, exit = c.egressIP(t, "cleanup")
			require.Zero(t, exit)
			route := c.shown(t, tt.family, tt.route)

			// A table of its own is the way out.
			d.entry = egressIP(object{"tableBase": 7000})
			d.add(t, both)
			d.requireSeen(t, egress4, egress6)
			d.del(t)
			require.Equal(t, route, c.shown(t, tt.family, tt.route))
		})
	}
}

// addToTable adds a route to enp7s0's table.
func (c *cluster) addToTable(t *testing.T, family, route string) {
	t.Helper()
	c.command(t, "ip", append([]string{family, "route", "add"}, append(strings.Fields(route), "table", c.table(t))...)...)
}

// shown is how ip shows a route of somebody else's in enp7s0's table, where it is to be.
func (c *cluster) shown(t *testing.T, family, route string) string {
	t.Helper()
	words := strings.Fields(route)
	if words[0] != "default" && words[1] != "via" && words[1] != "dev" {
		words = words[1:] // its type
	}
	args := []string{"-d", family, "route", "show", "table", c.table(t)}
	for line := range strings.Lines(c.command(t, "ip", args...)) {
		if strings.Contains(" "+line, " "+words[0]+" ") && !strings.Contains(line, "enp7s0") && !strings.Contains(line, "metric 4278198272") {
			return line
		}
	}
	require.Fail(t, "the route is gone", "%s", route)
	return ""
}

// TestForeignRouteLater: somebody adds a route to a table that is in use. `status`, CHECK and
// the next ADD name it, and nothing of egress-ip's removes it.
func TestForeignRouteLater(t *testing.T) {
	t.Parallel()
	for name, tt := range foreignRoutes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, nettest.LabOptions{SecondDefault: true}, "1.1.0")
			d := c.newDirect(t, "pod", "10.244.1.5", "fd00:10:244::5", egressIP(nil))
			other := c.newDirect(t, "other", "10.244.1.6", "fd00:10:244::6", egressIP(nil))
			d.add(t, both)
			d.requireSeen(t, egress4, egress6)
			c.status(t, 0)
			c.addToTable(t, tt.family, tt.route)

			named := strings.Fields(tt.route)[0]
			out, _ := c.status(t, 1)
			require.Contains(t, out, "1 in the way")
			require.Contains(t, out, named)
			_, err := d.call(t, "CHECK", both)
			require.ErrorContains(t, err, "in the way")
			require.ErrorContains(t, err, named)
			_, err = other.call(t, "ADD", both)
			require.ErrorContains(t, err, `"code": 103`)
			require.ErrorContains(t, err, named)
			other.del(t)
			route := c.shown(t, tt.family, tt.route)
			out, exit := c.egressIP(t, "resync")
			require.Zero(t, exit, out)
			require.Equal(t, "nothing to do\n", out)
			require.Equal(t, route, c.shown(t, tt.family, tt.route))
			d.del(t)
			require.Equal(t, route, c.shown(t, tt.family, tt.route))
			require.Len(t, append(c.routes(t, "-4"), c.routes(t, "-6")...), 1)
			c.requireNoAttachment(t)
		})
	}
}

// TestRuleInTheWay: ADD ends with the kernel's answer for the pod's packets. A rule of somebody
// else's that leads them elsewhere, before or beside ours, is named.
func TestRuleInTheWay(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ rule, family string }{
		"wg-quick's":                       {"pref 5000 not fwmark 0xca6c lookup 51820", ""},
		"wg-quick's, IPv6":                 {"pref 5000 not fwmark 0xca6c lookup 51820", "-6"},
		"from the pod":                     {"pref 100 from 10.244.1.5 lookup main", ""},
		"from the pods":                    {"pref 100 from 10.244.0.0/16 lookup main", ""},
		"by the pod's link":                {"pref 100 iif PODLINK lookup main", ""},
		"by the link's mark":               {"pref 100 fwmark 0x1000000/0xf000000 lookup main", ""},
		"without a mark":                   {"pref 100 fwmark 0/0xf000000 lookup 51820", ""},
		"that forbids":                     {"pref 100 from 10.244.1.5 prohibit", ""},
		"that skips ours":                  {"pref 100 from 10.244.1.5 goto 32766", ""},
		"for half the world, to elsewhere": {"pref 100 to 0.0.0.0/1 lookup main", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, nettest.LabOptions{SecondDefault: true}, "1.1.0")
			d := c.newDirect(t, "pod", "10.244.1.5", "fd00:10:244::5", egressIP(nil))
			c.command(t, "ip", "route", "add", "default", "via", nettest.PrimaryGatewayIPv4, "dev", "eth0", "table", "51820")
			c.command(t, "ip", "-6", "route", "add", "default", "via", nettest.PrimaryGatewayIPv6, "dev", "eth0", "table", "51820")
			family := tt.family
			if family == "" {
				family = "-4"
			}
			rule := strings.Fields(strings.Replace(tt.rule, "PODLINK", d.HostLink, 1))
			d.add(t, nil)
			c.command(t, "ip", append([]string{family, "rule", "add"}, rule...)...)
			before := c.state(t)
			_, err := d.call(t, "ADD", both)
			require.ErrorContains(t, err, `"code": 103`)
			require.ErrorContains(t, err, rule[1]+":")
			require.Equal(t, before, c.state(t))
			d.del(t)
			require.Equal(t, before, c.state(t))

			// Where it comes later, status and CHECK say so.
			c.command(t, "ip", append([]string{family, "rule", "del"}, rule...)...)
			d.add(t, both)
			d.requireSeen(t, egress4, egress6)
			c.status(t, 0)
			c.command(t, "ip", append([]string{family, "rule", "add"}, rule...)...)
			out, _ := c.status(t, 1)
			require.Contains(t, out, "in the way")
			require.Contains(t, out, rule[1]+":")
			_, err = d.call(t, "CHECK", both)
			require.ErrorContains(t, err, rule[1]+":")
		})
	}
}

// TestRuleNotInTheWay: rules of others' that lead no packets for the outside elsewhere are no
// reason to refuse.
func TestRuleNotInTheWay(t *testing.T) {
	t.Parallel()
	c := newCluster(t, nettest.LabOptions{SecondDefault: true}, "1.1.0")
	d := c.newDirect(t, "pod", "10.244.1.5", "fd00:10:244::5", egressIP(nil))
	for _, rule := range []string{
		"pref 100 to 8.0.0.0/8 lookup main", "pref 101 from all lookup main suppress_prefixlength 0", "pref 102 from 10.244.1.6 lookup main",
		"pref 103 fwmark 0x200/0xf00 lookup 2004", "pref 32000 not fwmark 0xca6c lookup main",
	} {
		c.command(t, "ip", append([]string{"rule", "add"}, strings.Fields(rule)...)...)
	}
	d.add(t, both)
	d.requireSeen(t, egress4, egress6)
	_, err := d.call(t, "CHECK", both)
	require.NoError(t, err)
	c.status(t, 0)
}

// TestSameKey: what has the place of an object of ours, and is another, is not taken for it.
func TestSameKey(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ do, names []string }{
		"rule that is not inverted": {
			[]string{"ip rule del pref 5999 not fwmark 0/0xf000000", "ip rule add pref 5999 fwmark 0/0xf000000 goto 6001 proto kernel"}, []string{"5999: not from all fwmark 0"}},
		"rule that goes elsewhere": {
			[]string{"ip rule del pref 5999 iif lo", "ip rule add pref 5999 iif lo goto 32766 proto kernel"}, []string{"5999: from all iif lo goto 6001"}},
		"pod's throw of another protocol": {
			[]string{"ip route add throw 10.244.1.6 table TABLE proto static"}, []string{"throw 10.244.1.6"}},
		"hole in the place of the pod's throw": {
			[]string{"ip route add blackhole 10.244.1.6 table TABLE"}, []string{"throw 10.244.1.6", "blackhole 10.244.1.6"}},
		"route in the place of a cluster throw": {
			[]string{"ip route replace 10.96.0.0/12 via 192.168.124.1 dev enp7s0 table TABLE"}, []string{"throw 10.96.0.0/12"}},
		"default in the place of the closing route": {
			[]string{"ip route replace default via 192.0.2.1 dev eth0 metric 4278198272 table TABLE"}, []string{"unreachable default metric 4278198272"}},
		"address that does not work yet": {
			[]string{"sysctl -qw net.ipv6.conf.enp7s0.accept_dad=1 net.ipv6.conf.enp7s0.dad_transmits=100", "ip -6 address add fd00:124::98/128 dev enp7s0"}, []string{"fd00:124::98"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, nettest.LabOptions{SecondDefault: true}, "1.1.0")
			d := c.newDirect(t, "pod", "10.244.1.5", "fd00:10:244::5", egressIP(nil))
			other := c.newDirect(t, "other", "10.244.1.6", "fd00:10:244::6", egressIP(nil))
			d.add(t, both)
			for _, command := range tt.do {
				args := withTable(c, t, strings.Fields(command))
				c.command(t, args[0], args[1:]...)
			}
			_, err := other.call(t, "ADD", address("192.168.124.98,fd00:124::98"))
			require.ErrorContains(t, err, `"code": 103`)
			for _, want := range tt.names {
				require.ErrorContains(t, err, jsonText(t, want))
			}
			require.NotContains(t, c.command(t, "ip", "-d", "rule"), "from 10.244.1.6 lookup "+c.table(t)+" proto kernel")
			require.NotContains(t, strings.Join(c.recorded(t), "\n"), "other:")
		})
	}
}

// TestAddAgainWithOtherClusterCIDRs: a second ADD leaves nothing of what the first, with other
// cluster networks, needed.
func TestAddAgainWithOtherClusterCIDRs(t *testing.T) {
	t.Parallel()
	for name, configs := range map[string][]object{
		"others":             {nil, {"clusterCIDRs": []string{"10.244.0.0/16", "172.30.0.0/16", "fd00:30::/64"}}},
		"none":               {nil, derived},
		"some that had none": {derived, nil},
		"of one family":      {nil, {"clusterCIDRs": []string{"10.244.0.0/16"}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, nettest.LabOptions{SecondDefault: true}, "1.1.0")
			d := c.newDirect(t, "pod", "10.244.1.5", "fd00:10:244::5", egressIP(configs[1]))
			d.add(t, both)
			want := c.whole(t)
			d.del(t)
			d.entry = egressIP(configs[0])
			d.add(t, both)
			d.requireSeen(t, egress4, egress6)
			d.entry = egressIP(configs[1])
			d.add(t, both)
			require.Equal(t, want, c.whole(t))
			c.status(t, 0)
			d.requireSeen(t, egress4, egress6)

			// What another pod needs stays.
			other := c.newDirect(t, "other", "10.244.1.6", "fd00:10:244::6", egressIP(configs[0]))
			other.add(t, both)
			c.status(t, 0)
			d.add(t, both)
			c.status(t, 0)
		})
	}
}
