package integration

import (
	"fmt"
	"strings"
	"testing"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
)

// TestExplainWays: whatever is wrong on the node, explain says where a packet
// goes, why, and what to do; and there it goes.
func TestExplainWays(t *testing.T) {
	t.Parallel()
	ip := func(family, object, command string, args ...string) func(*testing.T, *cluster) {
		return func(t *testing.T, c *cluster) {
			c.command(t, "ip", withTable(c, t, append([]string{family, object, command}, args...))...)
		}
	}
	nft := func(args ...string) func(*testing.T, *cluster) {
		return func(t *testing.T, c *cluster) { c.command(t, "nft", args...) }
	}
	all := func(breaks ...func(*testing.T, *cluster)) func(*testing.T, *cluster) {
		return func(t *testing.T, c *cluster) {
			for _, b := range breaks {
				b(t, c)
			}
		}
	}
	const resync = "run `egress-ip resync`"
	for name, tt := range map[string]struct {
		broken         func(*testing.T, *cluster)
		exit           int
		says, alsoIPv4 []string // what both families' pages say; and what that of IPv4 does
	}{
		"nothing": {all(), 0, []string{"As the annotation says: the packet leaves by enp7s0"}, nil},
		"nftables flushed": {nft("flush", "ruleset"), 1,
			[]string{"mark    none: table inet egress_ip is not there", "lookup TABLE", "because table inet egress_ip is not there; " + resync},
			[]string{"6000: from 10.244.1.5 lookup TABLE", "leaves by enp7s0 as 10.244.1.5"}},
		"source rules deleted": {all(ip("-4", "rule", "del", "pref", "6000"), ip("-6", "rule", "del", "pref", "6000")), 0,
			[]string{"But this is missing, though not on the packet's way: IPv", " rule 6000: from ", resync},
			[]string{"rule 6000: from 10.244.1.5 lookup TABLE; run"}},
		"link rules deleted": {all(ip("-4", "rule", "del", "pref", "5998"), ip("-6", "rule", "del", "pref", "5998")), 1,
			[]string{"leaves by eth0", "because the rule `5998: from all fwmark 0x1000000/0xf000000 lookup TABLE` is missing; " + resync}, nil},
		"nftables flushed, source rules deleted": {
			all(nft("flush", "ruleset"), ip("-4", "rule", "del", "pref", "6000"), ip("-6", "rule", "del", "pref", "6000")), 1,
			[]string{"leaves by eth0", "because table inet egress_ip is not there and the rule `6000: from "}, nil},
		"link's tables flushed": {all(ip("-4", "route", "flush", "table", "TABLE"), ip("-6", "route", "flush", "table", "TABLE")), 1,
			[]string{"leaves by eth0", "table   TABLE: no route for it; on to the next rule", "because table TABLE has no route for it; " + resync}, nil},
		"link down": {func(t *testing.T, c *cluster) { c.Node.SetDown(t, nettest.SecondLink) }, 1,
			[]string{
				"table   TABLE: unreachable default metric 4278198272", "route   none: unreachable",
				"is refused (unreachable), because the link enp7s0 is down; bring it up (`ip link set enp7s0 up`), then " + resync,
			}, nil},
		"link down and up": {func(t *testing.T, c *cluster) {
			c.Node.SetDown(t, nettest.SecondLink)
			c.Node.SetUp(t, nettest.SecondLink)
			c.Node.WaitUsable(t, nettest.SecondLink)
		}, 1, []string{"is refused (unreachable), because table TABLE has `unreachable default metric 4278198272` for it; " + resync}, nil},
		"link deleted": {func(t *testing.T, c *cluster) { c.Node.DeleteLink(t, nettest.SecondLink) }, 1,
			[]string{"is refused (unreachable), because the link enp7s0 (ifindex ", "is not there any more", "delete the pod"}, nil},
		"translations deleted": {all(
			nft("delete element inet egress_ip snat4 { 10.244.1.5 . enp7s0 }"), nft("delete element inet egress_ip snat6 { fd00:10:244::5 . enp7s0 }")), 1,
			[]string{"leaves by enp7s0 as ", "not translated by egress-ip", "of table inet egress_ip has no element ", resync},
			[]string{`leaves by enp7s0 as 10.244.1.5, unless somebody else masquerades, because map snat4 of table inet egress_ip has no element 10.244.1.5 . "enp7s0"; `}},
		"other translations": {all(
			nft("delete element inet egress_ip snat4 { 10.244.1.5 . enp7s0 }; add element inet egress_ip snat4 { 10.244.1.5 . enp7s0 : 192.168.124.10 }"),
			nft("delete element inet egress_ip snat6 { fd00:10:244::5 . enp7s0 }; add element inet egress_ip snat6 { fd00:10:244::5 . enp7s0 : fd00:124::10 }")), 1,
			[]string{"leaves by enp7s0 as ", resync},
			[]string{`because map snat4 of table inet egress_ip has 10.244.1.5 . "enp7s0" : 192.168.124.10; `}},
		"classification deleted": {all(nft("delete element inet egress_ip out4 { 10.244.1.5 }"), nft("delete element inet egress_ip out6 { fd00:10:244::5 }")), 1,
			[]string{"mark    0xf000000, by chain others: map out", "leaves by eth0", resync},
			[]string{"because map out4 of table inet egress_ip has no element 10.244.1.5; "}},
		"nothing is unmarked": {all(nft("flush map inet egress_ip unmarked"), nft("flush map inet egress_ip out4"), nft("flush map inet egress_ip out6")), 0,
			[]string{"mark    none: table inet egress_ip has no element for the packet", "As the annotation says: the packet leaves by enp7s0 as ", "But this is missing, though not on the packet's way: element "}, nil},
		"prerouting flushed": {nft("flush chain inet egress_ip prerouting"), 1,
			[]string{
				"mark    not known: chain prerouting of table inet egress_ip is not as egress-ip makes it; taken for 0x0",
				"because chain prerouting of table inet egress_ip is not as egress-ip makes it", resync,
			}, nil},
		"postrouting flushed": {nft("flush chain inet egress_ip postrouting"), 1,
			[]string{"source  not known: chain postrouting of table", "because chain postrouting of table inet egress_ip is not as egress-ip makes it", resync}, nil},
		"link's chain flushed": {func(t *testing.T, c *cluster) {
			c.command(t, "nft", fmt.Sprintf("flush chain inet egress_ip out_%d", c.Node.Index(t, nettest.SecondLink)))
		}, 1, []string{"taken for 0x0", "because chain out_", "is not as egress-ip makes it", resync}, nil},
		"egress addresses deleted": {func(t *testing.T, c *cluster) {
			c.Node.DeleteAddress(t, nettest.SecondLink, egress4+"/32")
			c.Node.DeleteAddress(t, nettest.SecondLink, egress6+"/128")
		}, 1, []string{"leaves by enp7s0 as ", "is not on enp7s0 (`ip address show enp7s0`), so no answer comes back; " + resync},
			[]string{"because 192.168.124.99 is not on enp7s0"}},
		"egress addresses on another link": {func(t *testing.T, c *cluster) {
			for _, address := range []string{egress4 + "/32", egress6 + "/128"} {
				c.Node.DeleteAddress(t, nettest.SecondLink, address)
				c.Node.AddAddress(t, nettest.PrimaryLink, address)
			}
		}, 1, []string{"leaves by enp7s0 as ", "is not on enp7s0 (`ip address show enp7s0`), so no answer comes back"}, nil},
		"rules before ours": {all(
			ip("-4", "rule", "add", "pref", "100", "from", pod4, "lookup", "main"), ip("-6", "rule", "add", "pref", "100", "from", pod6, "lookup", "main")), 1,
			[]string{"lookup main` is before egress-ip's; remove it, or give it a priority above 6001"},
			[]string{"rule    100: from 10.244.1.5 lookup main", "leaves by eth0 as 10.244.1.5, unless somebody else masquerades, because the rule `100: from 10.244.1.5 lookup main` is"}},
		"rules that refuse": {all(
			ip("-4", "rule", "add", "pref", "100", "from", pod4, "prohibit"), ip("-6", "rule", "add", "pref", "100", "from", pod6, "prohibit")), 1,
			[]string{"prohibit", "is refused (prohibited), because the rule `100: from ", "is before egress-ip's; remove it"},
			[]string{"rule    100: from 10.244.1.5 prohibit", "because the rule `100: from 10.244.1.5 prohibit` is before"}},
		"rules that cannot be followed": {all(
			ip("-4", "rule", "add", "pref", "100", "from", pod4, "lookup", "main", "suppress_ifgroup", "7"), ip("-6", "rule", "add", "pref", "100", "from", pod6, "lookup", "main", "suppress_ifgroup", "7")), 1,
			[]string{"rule    not known", "because a rule decides that has selectors beyond"},
			[]string{"see `100: from 10.244.1.5 suppress_ifgroup 7 lookup main`."}},
		"rules for others": {all(
			ip("-4", "rule", "add", "pref", "100", "ipproto", "tcp", "dport", "25", "lookup", "main"),
			ip("-6", "rule", "add", "pref", "100", "ipproto", "tcp", "dport", "25", "lookup", "main")), 0,
			[]string{"As the annotation says: the packet leaves by enp7s0", "Packets that the rule `100: from all ipproto 6 dport 25-25 lookup main` matches may go another way."}, nil},
		"a route of the link's table elsewhere": {all(
			ip("-4", "route", "add", nettest.ServerIPv4, "via", nettest.PrimaryGatewayIPv4, "table", "TABLE"),
			ip("-6", "route", "add", nettest.ServerIPv6, "via", nettest.PrimaryGatewayIPv6, "table", "TABLE")), 1,
			[]string{"leaves by eth0 as ", "because table TABLE has `", "remove that route"},
			[]string{"because table TABLE has `203.0.113.80 via 192.0.2.1 dev eth0` for it"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, d := newExplained(t, egressIP(nil))
			says := strings.Split(strings.ReplaceAll(strings.Join(tt.says, "\n"), "TABLE", c.table(t)), "\n")
			also := strings.Split(strings.ReplaceAll(strings.Join(tt.alsoIPv4, "\n"), "TABLE", c.table(t)), "\n")
			tt.broken(t, c)
			d.requireExplained(t, nettest.ServerIPv4, tt.exit, append(also, says...)...)
			d.requireExplained(t, nettest.ServerIPv6, tt.exit, says...)
		})
	}
}

// TestExplainCluster: a cluster destination goes as if egress-ip were not there,
// and that is right, however the node comes to know it.
func TestExplainCluster(t *testing.T) {
	t.Parallel()
	inSet := func(address string) string { return fmt.Sprintf("(%s is in the set cluster", address) }
	flush := func(t *testing.T, c *cluster) { c.command(t, "nft", "flush", "ruleset") }
	for name, tt := range map[string]struct {
		link         string // to the other node
		clusterCIDRs []string
		broken       func(*testing.T, *cluster)
		to4, to6     string
		says4, says6 string
	}{
		"another node's pod":           {nettest.PrimaryLink, withNodes, nil, otherPod4, otherPod6, inSet(otherPod4), inSet(otherPod6)},
		"another node":                 {nettest.PrimaryLink, withNodes, nil, otherNode4, otherNode6, inSet(otherNode4), inSet(otherNode6)},
		"by the egress link":           {nettest.SecondLink, withNodes, nil, otherPod4, otherPod6, inSet(otherPod4), inSet(otherPod6)},
		"a Service before DNAT":        {nettest.PrimaryLink, withNodes, nil, "10.96.0.10", "fd00:10:244:96::10", inSet("10.96.0.10"), inSet("fd00:10:244:96::10")},
		"flushed":                      {nettest.PrimaryLink, withNodes, flush, otherPod4, otherPod6, "the rule `5999: from all to 10.244.0.0/16 goto 6001`", "has `throw fd00:10:244::/56"},
		"main decides":                 {nettest.PrimaryLink, nil, nil, otherPod4, otherPod6, inSet(otherPod4), inSet(otherPod6)},
		"main decides, flushed":        {nettest.PrimaryLink, nil, flush, otherPod4, otherPod6, "main has `10.244.2.0/24 via 192.0.2.1 dev eth0`", "has `throw fd00:10:244:2::/64"},
		"main's, but the link's too":   {nettest.SecondLink, nil, nil, otherPod4, otherPod6, "As the annotation says: the packet leaves by enp7s0 as 192.168.124.99", "as fd00:124::99"},
		"the node's own":               {nettest.PrimaryLink, withNodes, nil, nettest.SecondIPv4, nettest.SecondIPv6, "(192.168.124.10 is the node's own): the packet is delivered on the node", "is delivered on the node"},
		"the egress address":           {nettest.PrimaryLink, withNodes, nil, egress4, egress6, "(192.168.124.99 is the node's own)", "(fd00:124::99 is the node's own)"},
		"the link's broadcast, router": {nettest.PrimaryLink, withNodes, nil, "192.168.124.255", nettest.SecondGatewayIPv6, "is delivered on the node", "As the annotation says: the packet leaves by enp7s0 as fd00:124::99"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, nettest.LabOptions{SecondDefault: true}, "1.0.0")
			c.addOtherNode(t, tt.link)
			d := c.newDirect(t, explainedID, pod4, pod6, egressIP(object{"clusterCIDRs": tt.clusterCIDRs}))
			d.add(t, both)
			if tt.broken != nil {
				tt.broken(t, c)
			}
			d.requireExplained(t, tt.to4, 0, "As the annotation says", tt.says4)
			d.requireExplained(t, tt.to6, 0, "As the annotation says", tt.says6)
		})
	}
}

// TestExplainOtherFamily: a family that the annotation does not name goes as a
// plain pod's.
func TestExplainOtherFamily(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		annotated, outside string
		server, source     string
		family, route      string
	}{
		{egress4, "8.8.8.8", nettest.ServerIPv6, pod6, "IPv6", "2001:db8:80::80 via 2001:db8:1::1 dev eth0 metric 1024 table main"},
		{egress6, "2001:4860:4860::8888", nettest.ServerIPv4, pod4, "IPv4", "203.0.113.80 via 192.0.2.1 dev eth0 table main"},
	} {
		t.Run(tt.family, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, nettest.LabOptions{SecondDefault: true}, "1.0.0")
			d := c.newDirect(t, explainedID, pod4, pod6, egressIP(nil))
			d.add(t, address(tt.annotated))
			out, errs, exit := c.explain(t, "payments/pod", "--to", tt.server)
			require.Empty(t, errs)
			require.Equal(t, 1, exit)
			require.Contains(t, out, fmt.Sprintf("The annotation names no %[1]s address, so the pod's %[1]s packets go as a plain pod's: this one leaves by eth0.", tt.family))
			require.Contains(t, out, "mark    0xf000000, by chain others: map out")
			require.Contains(t, out, "rule    32766: from all lookup main")
			require.Contains(t, out, "route   "+tt.route)
			require.Equal(t, "eth0 as "+tt.source, d.sent(t, tt.server))

			out, errs, exit = c.explain(t, "payments/pod")
			require.Empty(t, errs)
			require.Zero(t, exit)
			require.Contains(t, out, " to "+tt.outside+"\n")
			require.Equal(t, 1, strings.Count(out, " to "))
		})
	}
}

// TestExplainPodLink: the way begins at the pod's link, which a bridge's pods share,
// and which may refuse, or be gone.
func TestExplainPodLink(t *testing.T) {
	t.Parallel()
	t.Run("bridge", func(t *testing.T) {
		t.Parallel()
		c := newCluster(t, nettest.LabOptions{SecondDefault: true}, "1.0.0", bridge(t, "nftables"), egressIP(nil))
		p := c.add(t, both)
		p.requireSeen(t, egress4, egress6)
		out, errs, exit := c.explain(t, "payments/pod")
		require.Empty(t, errs)
		require.Zero(t, exit, out)
		require.Contains(t, out, "1. in      cni0 ")
		p.del(t)
	})
	t.Run("does not forward", func(t *testing.T) {
		t.Parallel()
		c, d := newExplained(t, egressIP(nil))
		c.Node.Sysctl(t, "net.ipv4.conf.veth1.forwarding", "0")
		d.requireExplained(t, nettest.ServerIPv4, 1, "because the link veth1 does not forward; set net.ipv4.conf.veth1.forwarding to 1.")
	})
	t.Run("strict, and the way back is by another link", func(t *testing.T) {
		t.Parallel()
		c, d := newExplained(t, egressIP(nil))
		c.Node.Sysctl(t, "net.ipv4.conf.all.rp_filter", "1")
		c.Node.Sysctl(t, "net.ipv4.conf.all.src_valid_mark", "1")
		d.requireExplained(t, nettest.ServerIPv4, 0)
		c.command(t, "ip", withTable(c, t, []string{"route", "del", "throw", pod4, "table", "TABLE"})...)
		c.command(t, "ip", withTable(c, t, []string{"route", "del", "throw", "10.244.0.0/16", "table", "TABLE"})...)
		d.requireExplained(t, nettest.ServerIPv4, 1, "is refused", "the reverse path filter of veth1 does not see the way back to 10.244.1.5 there", "net.ipv4.conf.veth1.rp_filter")
	})
	t.Run("gone", func(t *testing.T) {
		t.Parallel()
		c, d := newExplained(t, egressIP(nil))
		c.Node.DeleteRoute(t, nettest.Route{Dst: pod6 + "/128", Link: d.HostLink})
		out, errs, exit := c.explain(t, "payments/pod")
		require.Equal(t, 3, exit)
		require.Contains(t, out, "the packet leaves by enp7s0 as 192.168.124.99")
		require.Contains(t, errs, "the node has no link to fd00:10:244::5 (`ip route get fd00:10:244::5`), so the pod is not running")
		c.Node.DeleteLink(t, d.HostLink)
		out, errs, exit = c.explain(t, "payments/pod")
		require.Equal(t, 3, exit)
		require.Empty(t, out)
		require.Contains(t, errs, "the node has no link to 10.244.1.5")
	})
}
