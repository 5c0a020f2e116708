package egress_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/egress-ip/egress-ip/pkg/egress"
	"github.com/stretchr/testify/require"
)

// What the rules' tests are about: the pod, where it sends to, and enp7s0's mark.
const (
	linkMark, othersMark, markMask = 0x01000000, 0x0f000000, 0x0f000000
	behind                         = 6001
)

var (
	localRule  = egress.Rule{Family: egress.IPv4, Table: egress.LocalTable}
	linkRule   = egress.Rule{Family: egress.IPv4, Priority: 5998, Mark: linkMark, Mask: markMask, Table: 1134}
	skipMarked = egress.Rule{Family: egress.IPv4, Priority: 5999, Not: true, Mask: markMask, Goto: behind}
	skipLocal  = egress.Rule{Family: egress.IPv4, Priority: 5999, In: "lo", Goto: behind}
	otherPod   = egress.Rule{Family: egress.IPv4, Priority: 6000, From: prefix("10.244.1.6/32"), Table: 1135}
	sourceRule = egress.Rule{Family: egress.IPv4, Priority: 6000, From: prefix("10.244.1.5/32"), Table: 1134}
	behindRule = egress.Rule{Family: egress.IPv4, Priority: behind}
	mainRule   = egress.Rule{Family: egress.IPv4, Priority: 32766, Table: egress.MainTable}

	nodeRules = []egress.Rule{localRule, linkRule, skipMarked, skipLocal, otherPod, sourceRule, behindRule, mainRule}
)

// packet is one of the pod's, with this mark.
func packet(mark uint32) egress.Packet {
	return egress.Packet{Source: addr("10.244.1.5"), To: addr("203.0.113.80"), In: "veth1", Mark: mark}
}

func TestVisited(t *testing.T) {
	t.Parallel()
	with := func(rules ...egress.Rule) []egress.Rule { return rules }
	foreign := func(edit func(*egress.Rule)) egress.Rule {
		r := egress.Rule{Priority: 100, Table: 77}
		edit(&r)
		return r
	}
	from := foreign(func(r *egress.Rule) { r.From = prefix("10.244.0.0/16") })
	to := foreign(func(r *egress.Rule) { r.To = prefix("203.0.113.0/24") })
	iif := foreign(func(r *egress.Rule) { r.In = "veth1" })
	notTo := foreign(func(r *egress.Rule) { r.Not, r.To = true, prefix("10.0.0.0/8") })
	notOut := foreign(func(r *egress.Rule) { r.Not, r.Out = true, "eth0" })
	jump := foreign(func(r *egress.Rule) { r.Table, r.Goto = 0, 32766 })
	nowhere := foreign(func(r *egress.Rule) { r.Table, r.Goto = 0, 200 })
	toGoto := foreign(func(r *egress.Rule) { r.Table, r.Goto = 0, 5999 })
	for name, tt := range map[string]struct {
		rules []egress.Rule
		mark  uint32
		want  []egress.Rule
	}{
		"an egress connection":           {nodeRules, linkMark, with(localRule, linkRule, skipMarked, behindRule, mainRule)},
		"with somebody else's bits, too": {nodeRules, linkMark | 0x4000, with(localRule, linkRule, skipMarked, behindRule, mainRule)},
		"not ours":                       {nodeRules, othersMark, with(localRule, skipMarked, behindRule, mainRule)},
		"nftables flushed":               {nodeRules, 0, with(localRule, sourceRule, behindRule, mainRule)},
		"from a network":                 {with(from, mainRule), 0, with(from, mainRule)},
		"to a network":                   {with(to, mainRule), 0, with(to, mainRule)},
		"by the pod's link":              {with(iif, mainRule), 0, with(iif, mainRule)},
		"not to another network":         {with(notTo, mainRule), 0, with(notTo, mainRule)},
		// A link to leave by is for sockets that are bound to it.
		"not by a link":        {with(notOut, mainRule), 0, with(notOut, mainRule)},
		"from another network": {with(foreign(func(r *egress.Rule) { r.From = prefix("10.245.0.0/16") }), mainRule), 0, with(mainRule)},
		"to another network":   {with(foreign(func(r *egress.Rule) { r.To = prefix("10.0.0.0/8") }), mainRule), 0, with(mainRule)},
		"by another link":      {with(foreign(func(r *egress.Rule) { r.In = "veth2" }), mainRule), 0, with(mainRule)},
		"out by a link":        {with(foreign(func(r *egress.Rule) { r.Out = "eth0" }), mainRule), 0, with(mainRule)},
		"not to its network":   {with(foreign(func(r *egress.Rule) { r.Not, r.To = true, prefix("203.0.113.0/24") }), mainRule), 0, with(mainRule)},
		"another mark":         {with(foreign(func(r *egress.Rule) { r.Mark, r.Mask = 1, 0xffffffff }), mainRule), 2, with(mainRule)},
		"more selectors":       {with(foreign(func(r *egress.Rule) { r.More = "ipproto 6" }), mainRule), 0, with(mainRule)},
		"not more selectors":   {with(foreign(func(r *egress.Rule) { r.Not, r.More = true, "ipproto 6" }), mainRule), 0, with(mainRule)},
		"over ours":            {append(with(jump), nodeRules...), linkMark, with(jump, mainRule)},
		"to where no rule is":  {append(with(nowhere), linkRule, mainRule), linkMark, with(nowhere, linkRule, mainRule)},
		// The rule that is gone to may not match, and the one behind it may.
		"to several of a priority": {append(with(toGoto), nodeRules[1:]...), 0, with(toGoto, sourceRule, behindRule, mainRule)},
		"none":                     {nil, 0, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, tt.want, egress.Visited(tt.rules, packet(tt.mark)))
		})
	}
	// Nothing is known of the source: the rule from somewhere is not met.
	require.Equal(t, with(skipLocal), egress.Visited(with(sourceRule, skipLocal), egress.Packet{To: addr("203.0.113.80"), In: "lo"}))
}

func TestMayMatch(t *testing.T) {
	t.Parallel()
	for want, rules := range map[bool][]egress.Rule{
		true: {
			{More: "ipproto 6"}, {Not: true, More: "ipproto 6"}, {From: prefix("10.244.1.5/32"), More: "ipproto 6"},
			{Not: true, From: prefix("10.244.1.5/32"), More: "ipproto 6"},
		},
		false: {{From: prefix("10.244.1.6/32"), More: "ipproto 6"}},
	} {
		for _, r := range rules {
			require.Equal(t, want, r.MayMatch(packet(0)), r)
		}
	}
}

func TestLongestMatch(t *testing.T) {
	t.Parallel()
	const to = "203.0.113.80"
	for name, tt := range map[string]struct {
		routes []egress.Route
		want   egress.Route
	}{
		"none":          {nil, egress.Route{}},
		"none for it":   {[]egress.Route{route("10.0.0.0/8", eth0, "")}, egress.Route{}},
		"the longest":   {[]egress.Route{route("default", eth0, ""), route("203.0.113.0/24", enp7s0, ""), route("203.0.0.0/16", eth0, "")}, route("203.0.113.0/24", enp7s0, "")},
		"lowest metric": {[]egress.Route{route("default", eth0, "", metric(200)), route("default", enp7s0, "", metric(100))}, route("default", enp7s0, "", metric(100))},
		"first hop":     {[]egress.Route{route("default", eth0, "192.0.2.1"), route("default", eth0, "192.0.2.2")}, route("default", eth0, "192.0.2.1")},
		"no TOS":        {[]egress.Route{route("203.0.113.0/24", eth0, "", tos(8)), route("default", enp7s0, "")}, route("default", enp7s0, "")},
		"other family":  {[]egress.Route{route("default6", eth0, "")}, egress.Route{}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, tt.want, egress.LongestMatch(tt.routes, addr(to)))
		})
	}
}

func TestDecides(t *testing.T) {
	t.Parallel()
	specific := egress.Rule{Table: egress.MainTable, MinBits: 1}
	for name, tt := range map[string]struct {
		step egress.Step
		want bool
	}{
		"a route":              {egress.Step{Rule: mainRule, Route: route("default", eth0, "")}, true},
		"none":                 {egress.Step{Rule: mainRule}, false},
		"throw":                {egress.Step{Rule: linkRule, Route: route("default", 0, "", typed(egress.Throw))}, false},
		"unreachable":          {egress.Step{Rule: linkRule, Route: route("default", 0, "", typed(egress.Unreachable))}, true},
		"suppressed":           {egress.Step{Rule: specific, Route: route("default", eth0, "")}, false},
		"specific enough":      {egress.Step{Rule: specific, Route: route("128.0.0.0/1", eth0, "")}, true},
		"a refusal stays, too": {egress.Step{Rule: specific, Route: route("default", 0, "", typed(egress.Prohibit))}, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, tt.want, tt.step.Decides())
		})
	}
}

// A person sees rules as `ip rule` prints them.
func TestRuleText(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		want string
		rule egress.Rule
	}{
		{"0: from all lookup local", localRule},
		{"32767: from all lookup default", egress.Rule{Priority: 32767, Table: egress.DefaultTable}},
		{"7: not from 10.0.0.0/8 to 8.8.8.8 fwmark 0x42 iif veth1 oif eth0 ipproto 6 lookup 77", egress.Rule{
			Priority: 7, Not: true, From: prefix("10.0.0.0/8"), To: prefix("8.8.8.8/32"), Mark: 0x42, Mask: 0xffffffff,
			In: "veth1", Out: "eth0", More: "ipproto 6", Table: 77,
		}},
		{"9: from all prohibit", egress.Rule{Priority: 9, Refuses: egress.Prohibit}},
		{"8: from all lookup main suppress_prefixlength 16", egress.Rule{Priority: 8, Table: egress.MainTable, MinBits: 17}},
	} {
		require.Equal(t, tt.want, fmt.Sprint(tt.rule))
	}
}

// attachment is one pod with an IPv4 flow by the link with ifindex 3.
func attachment(priority uint32, pod string, cluster ...string) egress.Attachment {
	return egress.Attachment{
		Owner: egress.Owner{ContainerID: pod, IfName: "eth0"}, RulePriority: priority, MarkMask: 0xf000000,
		ClusterCIDRs: prefixes(cluster...),
		Flows:        []egress.Flow{{Pod: addr(pod), Address: addr("192.168.124.99"), Link: "enp7s0", Index: 3, Table: 1003, Mark: 0x1000000}},
	}
}

// TestOurs: the kernel's own rules are not taken for ours at any priority that may be
// configured, and all of ours are.
func TestOurs(t *testing.T) {
	t.Parallel()
	kernels := []egress.Rule{
		{Priority: 0, Family: egress.IPv4, Table: 255},
		{Priority: 32766, Family: egress.IPv4, Table: egress.MainTable},
		{Priority: 32767, Family: egress.IPv4, Table: 253},
	}
	for _, priority := range []uint32{1, 2, 3, 6000, 32764, 32765} {
		a := attachment(priority, "10.244.1.5")
		ours := a.Rules(a.Flows[0])
		require.Equal(t, []uint32{priority}, egress.SourcePriorities(ours))
		require.Equal(t, ours, egress.Ours(slices.Concat(kernels, ours), []uint32{priority}), "priority %d", priority)

		// Those of a link in a VRF, wherever the rule for VRFs is.
		a.Flows[0].VRFRule = 1000
		ours = a.Rules(a.Flows[0])
		require.Equal(t, ours, egress.Ours(slices.Concat(kernels, ours), []uint32{priority}), "priority %d", priority)
	}
	require.Empty(t, egress.Ours([]egress.Rule{
		{Priority: 5998, Family: egress.IPv4, From: prefix("10.244.1.5/32"), Table: 1003},
		{Priority: 5999, Family: egress.IPv4, Mask: 0xf, Mark: 1, Table: 1003},
		{Priority: 6000, Family: egress.IPv4, Mask: 0xf, Mark: 1, Table: 1003},
		{Priority: 6001, Family: egress.IPv4, From: prefix("10.244.1.5/32")},
		{Priority: 5997, Family: egress.IPv4, Mask: 0xf, Mark: 1, Table: 1003},
		{Priority: 6002, Family: egress.IPv4},
		{Priority: 998, Family: egress.IPv4, Mask: 0xf, Mark: 1, Table: 1003},
		{Priority: 999, Family: egress.IPv4, Mask: 0xf, Mark: 2, Table: egress.MainTable, MinBits: 1},
		{Priority: 999, Family: egress.IPv4, Mask: 0xf, Mark: 1, Table: egress.MainTable},
	}, []uint32{6000}))
}

// TestVRFRules: of a link in a VRF they are before the rule for VRFs, if there is room; of any
// other there are none.
func TestVRFRules(t *testing.T) {
	t.Parallel()
	a := attachment(6000, "10.244.1.5", "10.244.0.0/16")
	without := a.SharedRules(a.Flows[0])
	for at, want := range map[uint32][]string{
		0: nil, 2: nil,
		3: {
			"1: from all fwmark 0x1000000/0xf000000 lookup 1003",
			"2: from all fwmark 0x1000000/0xf000000 lookup main suppress_prefixlength 0",
		},
		32000: {
			"31998: from all fwmark 0x1000000/0xf000000 lookup 1003",
			"31999: from all fwmark 0x1000000/0xf000000 lookup main suppress_prefixlength 0",
		},
	} {
		f := a.Flows[0]
		f.VRFRule = at
		var more []string
		for _, r := range egress.Missing(a.SharedRules(f), without) {
			more = append(more, r.String())
		}
		require.Equal(t, want, more, "%d", at)
	}
}
