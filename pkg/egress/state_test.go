package egress_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/egress-ip/egress-ip/pkg/egress"
	"github.com/stretchr/testify/require"
)

// twoPods share a link and an address; the second is counted.
func twoPods() []egress.Attachment {
	pod := func(id, pod4, pod6 string) egress.Attachment {
		first, second := on("enp7s0", 134, 1134, 0x01000000), on("enp7s0", 134, 1134, 0x01000000)
		first.Pod = addr(pod4)
		second.Pod, second.Address, second.OwnsAddress = addr(pod6), addr("fd00:124::99"), false
		return egress.Attachment{
			Owner: egress.Owner{ContainerID: id, IfName: "eth0"}, RulePriority: 6000, MarkMask: 0x0f000000,
			ClusterCIDRs: prefixes("10.244.0.0/16", "10.244.1.0/24", "fd00:10:244::/56"), Flows: []egress.Flow{first, second},
		}
	}
	a, b := pod("c1", "10.244.1.5", "fd00:10:244::5"), pod("c2", "10.244.1.6", "fd00:10:244::6")
	b.Counters = true
	for i := range a.Flows {
		a.Flows[i].In = 7
		b.Flows[i].In, b.Flows[i].MAC = 8, "02:00:00:00:00:06"
	}
	return []egress.Attachment{a, b}
}

// TestDesired: what pods share is there once, and what is a pod's own, once a pod.
func TestDesired(t *testing.T) {
	t.Parallel()
	require.Equal(t, []string{
		"IPv4 rule 6001: from all nop",
		"IPv4 rule 5999: not from all fwmark 0/0xf000000 goto 6001",
		"IPv4 rule 5999: from all iif lo goto 6001",
		"IPv4 rule 5999: from all to 10.244.0.0/16 goto 6001",
		"IPv4 rule 5999: from all to 10.244.1.0/24 goto 6001",
		"IPv4 rule 5998: from all fwmark 0x1000000/0xf000000 lookup 1134",
		"IPv4 rule 6000: from 10.244.1.5 lookup 1134",
		"IPv6 rule 6001: from all nop",
		"IPv6 rule 5999: not from all fwmark 0/0xf000000 goto 6001",
		"IPv6 rule 5999: from all iif lo goto 6001",
		"IPv6 rule 5998: from all fwmark 0x1000000/0xf000000 lookup 1134",
		"IPv6 rule 6000: from fd00:10:244::5 lookup 1134",
		"IPv4 rule 6000: from 10.244.1.6 lookup 1134",
		"IPv6 rule 6000: from fd00:10:244::6 lookup 1134",
		"route unreachable default metric 4278198272 table 1134",
		"route unreachable default metric 4278198272 table 1134",
		"route throw 10.244.1.5 table 1134",
		"route throw fd00:10:244::5 metric 1024 table 1134",
		"route throw 10.244.1.6 table 1134",
		"route throw fd00:10:244::6 metric 1024 table 1134",
		"address 192.168.124.99/32 on if134",
		"element { 10.244.1.5 : goto out_134 } of map out4 in table inet egress_ip",
		"element { 10.244.1.5 : goto back_134 } of map back4 in table inet egress_ip",
		"element { 10.244.1.5 : goto exit_134 } of map guard4 in table inet egress_ip",
		`element { 10.244.1.5 . "if134" : 192.168.124.99 } of map snat4 in table inet egress_ip`,
		`element { 10.244.1.5 . "if7" } of set pods4 in table inet egress_ip`,
		"element { fd00:10:244::5 : goto out_134 } of map out6 in table inet egress_ip",
		"element { fd00:10:244::5 : goto back_134 } of map back6 in table inet egress_ip",
		"element { fd00:10:244::5 : goto exit_134 } of map guard6 in table inet egress_ip",
		`element { fd00:10:244::5 . "if134" : fd00:124::99 } of map snat6 in table inet egress_ip`,
		`element { fd00:10:244::5 . "if7" } of set pods6 in table inet egress_ip`,
		"element { 10.244.1.6 : goto bridged_134 } of map out4 in table inet egress_ip",
		"element { 10.244.1.6 : goto back_134 } of map back4 in table inet egress_ip",
		"element { 10.244.1.6 : goto exit_134 } of map guard4 in table inet egress_ip",
		`element { 10.244.1.6 . "if134" : 192.168.124.99 } of map snat4 in table inet egress_ip`,
		"element { 10.244.1.6 . 02:00:00:00:00:06 } of set bridged4 in table inet egress_ip",
		"element { fd00:10:244::6 : goto bridged_134 } of map out6 in table inet egress_ip",
		"element { fd00:10:244::6 : goto back_134 } of map back6 in table inet egress_ip",
		"element { fd00:10:244::6 : goto exit_134 } of map guard6 in table inet egress_ip",
		`element { fd00:10:244::6 . "if134" : fd00:124::99 } of map snat6 in table inet egress_ip`,
		"element { fd00:10:244::6 . 02:00:00:00:00:06 } of set bridged6 in table inet egress_ip",
	}, withoutShared(egress.Desired(twoPods(), egress.Facts{})).Lines(egress.Unnamed))

	// A flow whose address another pod has by now needs nothing.
	pods := twoPods()
	pods[0].Flows, pods[1].Flows = pods[0].Flows[:1], pods[1].Flows[:1]
	pods[1].Flows[0].Pod, pods[1].Since = pods[0].Flows[0].Pod, time.Now()
	one := egress.Desired(pods, egress.Facts{})
	require.Len(t, one.Rules, 7)
	require.Len(t, withoutShared(one).Elements, 5)
	for _, e := range one.Own().Elements {
		require.Equal(t, "c2", e.Owner)
	}
	require.Empty(t, egress.Desired(nil, egress.Facts{}).Lines(egress.Unnamed))

	// One that has no address to leave with is not translated.
	one = egress.Desired(pods, egress.Facts{Without: map[netip.Addr]bool{pods[0].Flows[0].Pod: true}})
	require.Len(t, withoutShared(one).Elements, 4)
}

// withoutShared leaves out the chains and the elements that are no pod's.
func withoutShared(s egress.State) egress.State {
	s.Chains, s.Elements = nil, s.Own().Elements
	return s
}

// TestDesiredTables: a link's table has what main has for the link; nothing leads out while the
// link is down.
func TestDesiredTables(t *testing.T) {
	t.Parallel()
	pods := twoPods()[:1]
	pods[0].Flows = pods[0].Flows[:1]
	table := pods[0].Table(pods[0].Flows[0])
	table.Thrown = prefixes("10.244.0.0/16", "10.244.1.5/32")
	table.Main = []egress.Route{{Table: egress.MainTable, Dst: prefix("192.168.124.0/24"), Type: egress.Unicast, Link: 134, Weight: 1}}
	routes := func() []string {
		var lines []string
		for _, r := range egress.Desired(pods, egress.Facts{Tables: []egress.Table{table}}).Routes {
			lines = append(lines, r.String())
		}
		return lines
	}
	closed := []string{"unreachable default metric 4278198272 table 1134", "throw 10.244.0.0/16 table 1134", "throw 10.244.1.5 table 1134"}
	require.Equal(t, append(closed[:3:3], "192.168.124.0/24 dev if134 table 1134", "default dev if134 table 1134"), routes())
	table.Down = true
	require.Equal(t, closed, routes())
}

// TestEnded: what a pod shares goes with the last that needs it; what is its own goes with it, but
// if a newer one has its address.
func TestEnded(t *testing.T) {
	t.Parallel()
	pods := twoPods()
	for i := range pods {
		pods[i].Flows = pods[i].Flows[:1]
		pods[i].Flows[0].MAC = ""
	}
	first, second := pods[0], pods[1]
	own := []string{
		"IPv4 rule 6000: from 10.244.1.5 lookup 1134",
		"route throw 10.244.1.5 table 1134",
		"element { 10.244.1.5 : goto out_134 } of map out4 in table inet egress_ip",
		"element { 10.244.1.5 : goto back_134 } of map back4 in table inet egress_ip",
		"element { 10.244.1.5 : goto exit_134 } of map guard4 in table inet egress_ip",
		`element { 10.244.1.5 . "if134" : 192.168.124.99 } of map snat4 in table inet egress_ip`,
		`element { 10.244.1.5 . "if7" } of set pods4 in table inet egress_ip`,
	}
	ended := func(ending egress.Attachment, rest ...egress.Attachment) ([]string, []netip.Addr) {
		gone, ended := egress.Ended([]egress.Attachment{ending}, rest)
		return gone.Lines(egress.Unnamed), ended
	}
	lines, of := ended(first, second)
	require.Equal(t, own, lines)
	require.Equal(t, []netip.Addr{first.Flows[0].Pod}, of)

	// With another egress address, that goes too.
	other := second
	other.Flows = slices.Clone(second.Flows)
	other.Flows[0].Address = addr("192.168.124.98")
	lines, _ = ended(first, other)
	require.Subset(t, lines, own)
	require.ElementsMatch(t, []string{
		"address 192.168.124.99/32 on if134",
		`element { 192.168.124.99 . "if134" } of set exit4 in table inet egress_ip`,
		"element { 192.168.124.99 : goto forged } of map out4 in table inet egress_ip",
		"element { 192.168.124.99 : goto mark_134 } of map arrived4 in table inet egress_ip",
	}, egress.Missing(lines, own))

	// An address that was on the link before stays, and is the link's.
	first.Flows[0].OwnsAddress = false
	lines, _ = ended(first, other)
	require.NotContains(t, lines, "address 192.168.124.99/32 on if134")
	require.NotContains(t, lines, "element { 192.168.124.99 : goto mark_134 } of map arrived4 in table inet egress_ip")

	// Another link, or none: all of the link's goes.
	lines, _ = ended(first)
	require.Contains(t, lines, "route unreachable default metric 4278198272 table 1134")
	require.Contains(t, lines, "chain prerouting of table inet egress_ip")
	require.Contains(t, lines, "IPv4 rule 5998: from all fwmark 0x1000000/0xf000000 lookup 1134")

	// A newer one has the address; and an older one has it.
	newer := second
	newer.Flows = slices.Clone(second.Flows)
	newer.Flows[0].Pod, newer.Since = first.Flows[0].Pod, time.Now()
	lines, of = ended(first, newer)
	require.Empty(t, lines)
	require.Empty(t, of)
	first.Flows[0].OwnsAddress = true
	lines, of = ended(newer, first)
	require.Len(t, lines, len(own))
	require.Len(t, of, 1)
}

// TestChains: what links have, each before what goes to it, and whence they know the cluster.
func TestChains(t *testing.T) {
	t.Parallel()
	link := func(name string) egress.Chain { return egress.Chain{Name: name, Mark: 0x01000000, Mask: 0x0f000000} }
	asking := func(name, cluster4, cluster6 string) egress.Chain {
		c := link(name)
		if strings.HasPrefix(name, "exit_") {
			c = egress.Chain{Name: name}
		}
		c.Cluster4, c.Cluster6 = cluster4, cluster6
		return c
	}
	networks := func(s egress.State) []egress.Element {
		return slices.DeleteFunc(s.Elements, func(e egress.Element) bool { return !e.Net.IsValid() })
	}
	facts := egress.Facts{Cluster: twoPods()[0].ClusterCIDRs}
	s := egress.Desired(twoPods(), facts)
	require.Equal(t, []egress.Chain{
		{Name: "others", Mark: 0x0f000000, Mask: 0x0f000000}, {Name: "inbound"}, {Name: "forged"}, {Name: "dropped"}, {Name: "related"}, {Name: "inside"},
		link("mark_134"), link("back_134"), asking("exit_134", "cluster4", "cluster6"),
		asking("out_134", "cluster4", "cluster6"), asking("bridged_134", "cluster4", "cluster6"),
		{Name: "unmarked"}, {Name: "exit", Mask: 0x0f000000}, {Name: "prerouting", Mask: 0xffff3fff},
		{Name: "output", Mask: 0x0f000000}, {Name: "postrouting", Mask: 0x0f000000},
	}, s.Chains)
	require.Equal(t, []egress.Element{
		{Set: "cluster4", Net: prefix("10.244.0.0/16")}, {Set: "cluster6", Net: prefix("fd00:10:244::/56")},
	}, networks(s))

	// Where the configuration names none of an address family, a link's table does.
	facts.Cluster = facts.Cluster[:1]
	for _, family := range egress.Families {
		facts.Tables = append(facts.Tables, egress.Table{
			Index: 134, Family: family, Thrown: prefixes(map[egress.Family]string{egress.IPv4: "10.9.0.0/16", egress.IPv6: "fd00:9::/64"}[family]),
		})
	}
	s = egress.Desired(twoPods(), facts)
	require.Contains(t, s.Chains, asking("bridged_134", "cluster4", "cluster6_134"))
	require.Equal(t, []egress.Element{
		{Set: "cluster4", Net: prefix("10.244.0.0/16")}, {Set: "cluster6_134", Net: prefix("fd00:9::/64")},
	}, networks(s))
}

// TestSharedElements: what pods share is there once; addresses of links that no pod uses
// are not.
func TestSharedElements(t *testing.T) {
	t.Parallel()
	var facts egress.Facts
	for address, link := range map[string]int{"10.0.0.2/24": 2, "192.168.124.10/24": 134, "192.168.124.99/32": 134, "fe80::1/64": 134} {
		facts.Addresses = append(facts.Addresses, egress.LinkAddress{Index: link, Network: prefix(address)})
	}
	var lines []string
	for _, e := range egress.Desired(twoPods(), facts).Elements {
		if !e.Pod.IsValid() {
			lines = append(lines, e.String())
		}
	}
	require.Equal(t, []string{
		"element { 0 : goto others } of map unmarked in table inet egress_ip",
		`element { "if134" } of set links in table inet egress_ip`,
		`element { 192.168.124.99 . "if134" } of set exit4 in table inet egress_ip`,
		"element { 192.168.124.99 : goto forged } of map out4 in table inet egress_ip",
		"element { 192.168.124.99 : goto mark_134 } of map arrived4 in table inet egress_ip",
		`element { fd00:124::99 . "if134" } of set exit6 in table inet egress_ip`,
		"element { fd00:124::99 : goto forged } of map out6 in table inet egress_ip",
		"element { fd00:124::99 : goto mark_134 } of map arrived6 in table inet egress_ip",
		"element { 192.168.124.10 : goto mark_134 } of map arrived4 in table inet egress_ip",
	}, lines)
}

// TestLinkOf: what belongs to a link is told by its name, and nothing else is.
func TestLinkOf(t *testing.T) {
	t.Parallel()
	for _, name := range append(egress.LinkChains(134), "cluster4_134", "cluster6_134") {
		index, ok := egress.LinkOf(name)
		require.True(t, ok, name)
		require.Equal(t, 134, index, name)
	}
	for _, name := range []string{"", "out", "out_", "out_x", "out_-1", "outs_134", "prerouting", "cluster4", "out_99999999999", "snat4_134"} {
		_, ok := egress.LinkOf(name)
		require.False(t, ok, name)
	}
}

func TestSubtract(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ from, without, left []string }{
		"nothing":           {[]string{"10.0.0.0/8"}, nil, []string{"10.0.0.0/8"}},
		"itself":            {[]string{"10.0.0.0/8"}, []string{"10.0.0.0/8"}, nil},
		"one that holds it": {[]string{"10.9.0.0/16", "fd00::/64"}, []string{"10.0.0.0/8"}, []string{"10.9.0.0/16", "fd00::/64"}},
		"one inside":        {[]string{"10.0.0.0/14"}, []string{"10.1.0.0/16"}, []string{"10.0.0.0/16", "10.2.0.0/15"}},
		"two inside":        {[]string{"10.0.0.0/14"}, []string{"10.3.0.0/16", "10.1.0.0/16"}, []string{"10.0.0.0/16", "10.2.0.0/16"}},
		"side by side":      {[]string{"10.0.0.0/9"}, []string{"10.128.0.0/9"}, []string{"10.0.0.0/9"}},
		"a host":            {[]string{"10.0.0.0/30"}, []string{"10.0.0.3/32"}, []string{"10.0.0.0/31", "10.0.0.2/32"}},
		"IPv6":              {[]string{"fd00::/62"}, []string{"fd00:0:0:1::/64"}, []string{"fd00::/64", "fd00:0:0:2::/63"}},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, prefixes(tt.left...), egress.Subtract(prefixes(tt.from...), prefixes(tt.without...)))
		})
	}
}

// TestLess: one thing of each kind that is on one side alone is found, and no other.
func TestLess(t *testing.T) {
	t.Parallel()
	needs := func() egress.State {
		s := egress.Desired(twoPods(), egress.Facts{})
		s.Chains = []egress.Chain{{Name: "others"}, {Name: "out_134", Mark: 1, Mask: 15}}
		return s
	}
	missing, surplus := needs().Less(needs())
	require.Empty(t, missing.Lines(egress.Unnamed))
	require.Empty(t, surplus.Lines(egress.Unnamed))
	for name, change := range map[string]func(s *egress.State) string{
		"rule": func(s *egress.State) string { s.Rules[0].Goto = 7; return "rule 6001: from all nop" },
		"route": func(s *egress.State) string {
			s.Routes[0].Metric = 7
			return "route unreachable default metric 4278198272 table 1134"
		},
		"address": func(s *egress.State) string { s.Addresses[0].Link = 7; return "address 192.168.124.99/32 on if134" },
		"chain":   func(s *egress.State) string { s.Chains[1].Mark = 7; return "chain out_134 of table inet egress_ip" },
		"comment": func(s *egress.State) string {
			s.Elements[0].Owner = "other"
			return "element { 10.244.1.5 : goto out_134 } of map out4 in table inet egress_ip"
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			have := needs()
			line := change(&have)
			missing, surplus := needs().Less(have)
			require.Len(t, missing.Lines(egress.Unnamed), 1)
			require.Contains(t, missing.Lines(egress.Unnamed)[0], line)
			require.Len(t, surplus.Lines(egress.Unnamed), 1)
			back, forth := have.Less(needs())
			require.Equal(t, missing, forth)
			require.Equal(t, surplus, back)
		})
	}
}
