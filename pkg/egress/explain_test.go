package egress_test

import (
	"testing"

	"github.com/egress-ip/egress-ip/pkg/egress"
	"github.com/stretchr/testify/require"
)

// healthyWay is that of a packet to the outside, with all as it should be.
func healthyWay() egress.Way {
	f := egress.Flow{
		Pod: addr("10.244.1.5"), Address: addr("192.168.124.99"), Link: "enp7s0", Index: enp7s0,
		Table: 1134, Mark: linkMark, OwnsAddress: true,
	}
	out := route("default", enp7s0, "192.168.124.1", table(1134))
	return egress.Way{
		Attachment: egress.Attachment{RulePriority: 6000, MarkMask: markMask, ClusterCIDRs: prefixes("10.244.0.0/16"), Flows: []egress.Flow{f}},
		Flow:       f,
		Packet:     packet(linkMark),
		Marking:    egress.Marking{Exists: true, Element: true, Chain: "out_134", Mark: linkMark},
		NodeRules:  nodeRules,
		Steps:      []egress.Step{{Rule: linkRule, Route: out, Link: "enp7s0"}},
		Answer:     egress.Answer{Route: route("203.0.113.80/32", enp7s0, "192.168.124.1", table(1134)), LinkName: "enp7s0"},

		Translation: egress.Translation{Source: f.Address},
		Link:        egress.Link{Name: "enp7s0", Index: enp7s0, Up: true, Carrier: true},
		HasAddress:  true,
	}
}

// byMain sends the packet by eth0, behind the rules that it meets.
func byMain(w *egress.Way, mark uint32, rules ...egress.Rule) {
	w.Packet.Mark = mark
	w.Steps = nil
	for _, r := range rules {
		w.Steps = append(w.Steps, egress.Step{Rule: r})
	}
	w.Steps = append(w.Steps, egress.Step{Rule: mainRule, Route: route("default", eth0, "192.0.2.1"), Link: "eth0"})
	w.Answer = egress.Answer{Route: route("203.0.113.80/32", eth0, "192.0.2.1"), LinkName: "eth0"}
	w.Translation = egress.Translation{}
}

// refused lets the link's table refuse the packet.
func refused(w *egress.Way, r egress.Refusal, of egress.RouteType) {
	w.Answer = egress.Answer{Refusal: r}
	w.Steps[len(w.Steps)-1].Route = route("default", 0, "", typed(of), table(1134), metric(egress.UnreachableMetric))
	w.Translation = egress.Translation{}
}

func TestVerdict(t *testing.T) {
	t.Parallel()
	const right = true
	for name, tt := range map[string]struct {
		edit  func(w *egress.Way)
		right bool
		says  []string
	}{
		"as it should be": {func(*egress.Way) {}, right, []string{"As the annotation says", "leaves by enp7s0 as 192.168.124.99"}},
		"plain": {func(w *egress.Way) { w.Flow = egress.Flow{}; byMain(w, othersMark) }, !right,
			[]string{"names no IPv4 address", "as a plain pod's", "leaves by eth0"}},
		"node's own": {func(w *egress.Way) {
			w.Answer = egress.Answer{Route: route("203.0.113.80/32", 0, "", typed(egress.Local))}
		}, right,
			[]string{"203.0.113.80 is the node's own", "delivered on the node"}},
		"cluster set": {func(w *egress.Way) { w.Marking.Cluster, w.Marking.Set = true, "cluster4"; byMain(w, othersMark) }, right,
			[]string{"in the set cluster4", "leaves by eth0 as 10.244.1.5"}},
		"cluster, refused": {func(w *egress.Way) {
			w.Marking.Cluster, w.Marking.Set = true, "cluster4"
			byMain(w, othersMark)
			w.Answer = egress.Answer{Refusal: egress.RefusedNoRoute}
		}, right, []string{"in the set cluster4", "is refused (no route)"}},
		"cluster, by the link's table": {func(w *egress.Way) {
			w.Marking.Cluster, w.Marking.Set = true, "cluster4"
			w.Translation.Source = addr("10.244.1.5")
		}, !right,
			[]string{"in the set cluster4", "still goes by table 1134", "resync"}},
		"thrown": {func(w *egress.Way) {
			byMain(w, linkMark, linkRule)
			w.Steps[0].Route = route("203.0.113.0/24", 0, "", typed(egress.Throw), table(1134))
		}, right, []string{"table 1134 has `throw 203.0.113.0/24`", "leaves by eth0"}},
		"prerouting altered": {func(w *egress.Way) { w.Marking.Altered = "prerouting" }, !right,
			[]string{"not known whether", "chain prerouting of table inet egress_ip is not as egress-ip makes it", "leaves by enp7s0 as 192.168.124.99", "resync"}},
		"cluster, prerouting altered": {func(w *egress.Way) {
			w.Marking.Altered, w.Marking.Cluster = "prerouting", true
			byMain(w, 0)
		}, !right, []string{"leaves by eth0 as 10.244.1.5", "chain prerouting", "resync"}},
		"postrouting altered": {func(w *egress.Way) { w.Translation = egress.Translation{Altered: "postrouting"} }, !right,
			[]string{"not known whether", "chain postrouting of table inet egress_ip is not as egress-ip makes it", "leaves by enp7s0 as 10.244.1.5", "resync"}},
		"no translation": {func(w *egress.Way) { w.Translation = egress.Translation{} }, !right,
			[]string{`map snat4 of table inet egress_ip has no element 10.244.1.5 . "enp7s0"`, "resync"}},
		"another translation": {func(w *egress.Way) { w.Translation.Source = addr("192.168.124.98") }, !right,
			[]string{"leaves by enp7s0 as 192.168.124.98", `has 10.244.1.5 . "enp7s0" : 192.168.124.98`, "resync"}},
		"no address": {func(w *egress.Way) { w.HasAddress = false }, !right, []string{"192.168.124.99 is not on enp7s0", "resync"}},
		"no address of somebody's": {func(w *egress.Way) { w.HasAddress, w.Flow.OwnsAddress = false, false }, !right,
			[]string{"192.168.124.99 is not on enp7s0", "add it to the link"}},
		"neither translation nor address": {func(w *egress.Way) { w.HasAddress = false; w.Translation = egress.Translation{} }, !right,
			[]string{`no element 10.244.1.5 . "enp7s0" and 192.168.124.99 is not on enp7s0`, "no answer comes back; run `egress-ip resync`."}},
		"flushed": {func(w *egress.Way) {
			w.Marking, w.Packet.Mark, w.Translation = egress.Marking{}, 0, egress.Translation{}
			w.Steps[0].Rule = sourceRule
		}, !right, []string{"leaves by enp7s0 as 10.244.1.5", "because table inet egress_ip is not there; run"}},
		"flushed, and no source rule": {func(w *egress.Way) {
			w.Marking = egress.Marking{}
			w.NodeRules = []egress.Rule{linkRule, mainRule}
			byMain(w, 0)
		}, !right, []string{"table inet egress_ip is not there and the rule `6000: from 10.244.1.5 lookup 1134` is missing; run"}},
		"no element": {func(w *egress.Way) {
			w.Marking = egress.Marking{Exists: true, Chain: "others", Mark: othersMark}
			byMain(w, othersMark, skipMarked)
		}, !right, []string{"leaves by eth0", "map out4 of table inet egress_ip has no element 10.244.1.5", "resync"}},
		"another link's chain": {func(w *egress.Way) {
			w.Marking.Chain, w.Marking.Mark = "out_135", 0x02000000
			byMain(w, 0x02000000, skipMarked)
		}, !right, []string{"chain out_135 sets the mark 0x2000000, and that of enp7s0 is 0x1000000", "resync"}},
		"no link rule": {func(w *egress.Way) {
			w.NodeRules = []egress.Rule{skipMarked, sourceRule, mainRule}
			byMain(w, linkMark, skipMarked)
		}, !right, []string{"the rule `5998: from all fwmark 0x1000000/0xf000000 lookup 1134` is missing", "resync"}},
		"table empty": {func(w *egress.Way) { byMain(w, linkMark, linkRule, skipMarked) }, !right,
			[]string{"leaves by eth0", "table 1134 has no route for it", "resync"}},
		"link was down": {func(w *egress.Way) { refused(w, egress.RefusedUnreachable, egress.Unreachable) }, !right,
			[]string{"is refused (unreachable)", "table 1134 has `unreachable default metric 4278198272` for it; run"}},
		"link down": {func(w *egress.Way) { w.Link.Up = false; refused(w, egress.RefusedUnreachable, egress.Unreachable) }, !right,
			[]string{"the link enp7s0 is down", "ip link set enp7s0 up", "then run `egress-ip resync`"}},
		"link gone": {func(w *egress.Way) { w.Link = egress.Link{}; refused(w, egress.RefusedUnreachable, egress.Unreachable) }, !right,
			[]string{"the link enp7s0 (ifindex 134) is not there any more", "delete the pod"}},
		"no carrier":       {func(w *egress.Way) { w.Link.Carrier = false }, !right, []string{"the link enp7s0 has no carrier", "other end"}},
		"port of a bridge": {func(w *egress.Way) { w.Link.Unfit = "it is a port of br0" }, !right, []string{"the link enp7s0 cannot carry egress: it is a port of br0"}},
		"a route elsewhere": {func(w *egress.Way) {
			w.Steps[0].Route, w.Steps[0].Link = route("default", eth0, "192.0.2.1", table(1134)), "eth0"
			w.Answer = egress.Answer{Route: route("203.0.113.80/32", eth0, "192.0.2.1", table(1134)), LinkName: "eth0"}
		}, !right, []string{"table 1134 has `default via 192.0.2.1 dev eth0` for it", "remove that route"}},
		"somebody's rule": {func(w *egress.Way) {
			byMain(w, linkMark)
			w.Steps[0].Rule.Priority = 100
		}, !right, []string{"the rule `100: from all lookup main` is before egress-ip's", "a priority above 6001"}},
		"somebody's goto": {func(w *egress.Way) { byMain(w, linkMark, egress.Rule{Priority: 100, Goto: 32766}) }, !right,
			[]string{"the rule `100: from all goto 32766` is before egress-ip's"}},
		"a rule with more selectors": {func(w *egress.Way) {
			byMain(w, linkMark)
			w.Steps = healthyWay().Steps
			w.NodeRules = []egress.Rule{{Priority: 100, More: "ipproto 17", Table: 254}, {Priority: 101, From: prefix("10.0.0.1/32")}, {Priority: 102}, linkRule}
		}, !right, []string{"beyond source, destination, mark and link; see `100: from all ipproto 17 lookup main`."}},
		"does not forward": {func(w *egress.Way) { w.Answer = egress.Answer{Refusal: egress.RefusedUnreachable} }, !right,
			[]string{"the link veth1 does not forward", "net.ipv4.conf.veth1.forwarding"}},
		"reverse path filter": {func(w *egress.Way) { w.Answer = egress.Answer{Refusal: egress.RefusedInvalid} }, !right,
			[]string{"reverse path filter of veth1", "net.ipv4.conf.veth1.rp_filter"}},
		"no route at all": {func(w *egress.Way) {
			w.NodeRules = []egress.Rule{skipMarked, sourceRule, mainRule}
			w.Steps = []egress.Step{{Rule: skipMarked}, {Rule: mainRule}}
			w.Answer = egress.Answer{Refusal: egress.RefusedNoRoute}
		}, !right, []string{"is refused (no route), because the rule `5998: "}},
		// Rules and route are read one after the other.
		"changed meanwhile": {func(w *egress.Way) { byMain(w, linkMark) }, !right, []string{"the kernel decides otherwise", "ip rule"}},
		"otherwise": {func(w *egress.Way) { byMain(w, linkMark); w.Steps = healthyWay().Steps }, !right,
			[]string{"the kernel decides otherwise", "ip rule"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := healthyWay()
			tt.edit(&w)
			v := w.Verdict()
			require.Equal(t, tt.right, v.Right, v.Text)
			for _, says := range tt.says {
				require.Contains(t, v.Text+".", says)
			}
		})
	}
}

// What may take other packets elsewhere is told where it is before what decides.
func TestUnfollowed(t *testing.T) {
	t.Parallel()
	before := egress.Rule{Priority: 100, More: "ipproto 6 dport 443-443", Table: 77}
	w := healthyWay()
	w.NodeRules = []egress.Rule{
		{Priority: 99, From: prefix("10.244.1.6/32"), More: "ipproto 6", Table: 77}, // another pod's
		before,
		{Priority: 101}, // does nothing, or the kernel would not agree
		linkRule,
		{Priority: 7000, More: "ipproto 6", Table: 77},
	}
	require.Equal(t, []egress.Rule{before}, w.Unfollowed())
}
