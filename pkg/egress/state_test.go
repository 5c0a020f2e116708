package egress_test

import (
	"strings"
	"testing"

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

func all(a egress.Attachment) []egress.Flow { return a.Flows }

// TestNeeds: what pods share is there once, and what is a pod's own, once a pod.
func TestNeeds(t *testing.T) {
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
	}, egress.Needs(twoPods(), all).Lines(egress.Unnamed))

	// A flow whose address another pod has by now needs nothing.
	one := egress.Needs(twoPods(), func(a egress.Attachment) []egress.Flow {
		if a.ContainerID == "c1" {
			return nil
		}
		return a.Flows[:1]
	})
	require.Len(t, one.Rules, 7)
	require.Len(t, one.Elements, 5)
	require.Empty(t, egress.Needs(nil, all).Lines(egress.Unnamed))
}

func TestClasses(t *testing.T) {
	t.Parallel()
	var c egress.Classes
	for _, a := range twoPods() {
		mine := a.Classes(a.Flows...)
		c.Mask, c.Cluster = mine.Mask, mine.Cluster
		c.Pods = append(c.Pods, mine.Pods...)
	}
	link := func(name string) egress.Chain { return egress.Chain{Name: name, Mark: 0x01000000, Mask: 0x0f000000} }
	asking := func(name, cluster4, cluster6 string) egress.Chain {
		c := link(name)
		if strings.HasPrefix(name, "exit_") {
			c = egress.Chain{Name: name}
		}
		c.Cluster4, c.Cluster6 = cluster4, cluster6
		return c
	}
	require.Equal(t, []egress.Chain{
		{Name: "others", Mark: 0x0f000000, Mask: 0x0f000000}, {Name: "inbound"}, {Name: "forged"}, {Name: "dropped"}, {Name: "related"}, {Name: "inside"},
		link("mark_134"), link("back_134"), asking("exit_134", "cluster4", "cluster6"),
		asking("out_134", "cluster4", "cluster6"), asking("bridged_134", "cluster4", "cluster6"),
		{Name: "unmarked"}, {Name: "exit", Mask: 0x0f000000}, {Name: "prerouting"},
		{Name: "output", Mask: 0x0f000000}, {Name: "postrouting", Mask: 0x0f000000},
	}, c.Chains())
	require.Equal(t, []egress.Element{
		{Set: "cluster4", Net: prefix("10.244.0.0/16")}, {Set: "cluster6", Net: prefix("fd00:10:244::/56")},
	}, c.ClusterElements())

	// Where the configuration names none of an address family, a link's table does.
	c.Cluster = c.Cluster[:1]
	for _, family := range egress.Families {
		c.Derived = append(c.Derived, egress.Table{
			TableSpec: egress.TableSpec{Index: 134, Family: family}, Thrown: prefixes(map[egress.Family]string{egress.IPv4: "10.9.0.0/16", egress.IPv6: "fd00:9::/64"}[family]),
		})
	}
	require.Contains(t, c.Chains(), asking("bridged_134", "cluster4", "cluster6_134"))
	require.Equal(t, []egress.Element{
		{Set: "cluster4", Net: prefix("10.244.0.0/16")}, {Set: "cluster6_134", Net: prefix("fd00:9::/64")},
	}, c.ClusterElements())
}

// TestSharedElements: what pods share is there once; addresses of links that no pod uses
// are not.
func TestSharedElements(t *testing.T) {
	t.Parallel()
	var c egress.Classes
	for _, a := range twoPods() {
		c.Pods = append(c.Pods, a.Classes(a.Flows...).Pods...)
	}
	c.Arrived = []egress.Address{{Link: 2, Address: addr("10.0.0.2")}, {Link: 134, Address: addr("192.168.124.10")},
		{Link: 134, Address: addr("192.168.124.99")}, {Link: 134, Address: addr("fe80::1")}}
	var lines []string
	for _, e := range c.SharedElements() {
		lines = append(lines, e.String())
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
		s := egress.Needs(twoPods(), all)
		s.Chains = []egress.Chain{{Name: "others"}, {Name: "out_134", Mark: 1, Mask: 15}}
		return s
	}
	missing, surplus := needs().Less(needs())
	require.Empty(t, missing.Lines(egress.Unnamed))
	require.Empty(t, surplus.Lines(egress.Unnamed))
	for name, change := range map[string]func(s *egress.State) string{
		"rule":    func(s *egress.State) string { s.Rules[0].Goto = 7; return "rule 6001: from all nop" },
		"route":   func(s *egress.State) string { s.Routes[0].Metric = 7; return "route throw 10.244.1.5 table 1134" },
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
