package kernel

import (
	"github.com/egress-ip/egress-ip/pkg/egress"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// sharedRules are those of the chains of table inet egress_ip that all links share.
var sharedRules = map[string]func(egress.Chain) [][]expr.Any{
	egress.Prerouting: preroutingRules, egress.Output: outputRules, egress.Postrouting: postroutingRules, egress.Exit: exitRules,
	egress.Others: markRules, egress.Inbound: inboundRules, egress.Inside: insideRules, egress.Forged: forgedRules,
	egress.Unmarked: unmarkedRules, egress.Dropped: droppedRules, egress.Related: relatedRules,
}

// rulesOf returns what is to be in a chain, shared or a link's.
func rulesOf(c egress.Chain) [][]expr.Any {
	if rules, ok := sharedRules[c.Name]; ok {
		return rules(c)
	}
	switch {
	case c.IsBack(): // back_134
		return backRules(c)
	case c.IsExit(): // exit_134
		return linkExitRules(c)
	case c.IsMark(): // mark_134
		return markRules(c)
	}
	return outRules(c) // out_134 for pods with a link of their own, bridged_134, unchecked_134
}

// preroutingRules classify what comes in. The chain's mask is the bits in which somebody
// else's mark shows.
func preroutingRules(c egress.Chain) (rules [][]expr.Any) {
	for _, f := range ipFamilies {
		rules = append(rules,
			// ip saddr vmap @out4
			rule(f.saddr(), vmap(f.Out())),
			// ip daddr vmap @back4
			rule(f.daddr(), vmap(f.Back())))
	}
	return append(rules,
		// ct state related jump related
		rule(state(expr.CtStateBitRELATED), jump(egress.Related)),
		// meta mark & 0xffff3fff vmap @unmarked
		//
		// People match their marks without a mask, so one that is there is left alone.
		// The 0 is an element of a map, because while the ruleset is flushed the kernel goes on
		// with the rules for some 50 µs after the elements of all sets have gone. A rule
		// that needs none would then mark what is a pod's as not ours.
		rule(markBits(c.Mask), vmap(egress.UnmarkedMap)))
}

// outputRules classify what the node itself says about egress connections: ICMP
// errors about what comes back, a packet too big for the pod's link above all.
// They are translated to the egress address, so they leave by its link.
//
// What pods send to a Service comes here, too, where kube-proxy has IPVS translate it: to its
// backend. That has been in the chain prerouting, and so it has a mark, which the node's own
// packets have not.
func outputRules(c egress.Chain) [][]expr.Any {
	rules := [][]expr.Any{
		// ct state related jump related
		rule(state(expr.CtStateBitRELATED), jump(egress.Related)),
		// meta mark & 0x0f000000 == 0 accept
		rule(markIs(0, c.Mask), accept),
	}
	for _, f := range ipFamilies {
		// ip saddr vmap @out4
		rules = append(rules, rule(f.saddr(), vmap(f.Out())))
	}
	return rules
}

// relatedRules classify what somebody else than the pod says about its egress connections,
// as if the pod had: conntrack translates that to the egress address, too. The node may, and
// nobody else, for an ICMP error that a plain pod forges would end the connection.
func relatedRules(egress.Chain) (rules [][]expr.Any) {
	for _, f := range ipFamilies {
		// ct direction original ct original ip saddr vmap @out4
		rules = append(rules, rule(direction(expr.CtDirOriginal), f.ctSaddr(), vmap(f.Out())))
	}
	return rules
}

// outRules classify what pods send: only connections that they have opened themselves,
// to destinations outside the cluster, are for the link. A packet is a pod's if it comes
// from where the pod is: by the pod's own link, or, on a bridge, with the pod's MAC
// address. An element that has a counter counts what it lets through.
func outRules(c egress.Chain) [][]expr.Any {
	rules := [][]expr.Any{
		// ct direction reply goto inbound
		rule(direction(expr.CtDirReply), goTo(egress.Inbound)),
	}
	inside := egress.Inside
	if c.ChecksNothing() || c.ChecksMAC() {
		inside = egress.Others
	}
	for _, f := range ipFamilies {
		// ip daddr @cluster4 goto inside
		rules = append(rules, rule(f.daddr(), in(clusterSetOf(c, f.Family)), goTo(inside)))
	}
	mark := rule(setMark(c.Mark, c.Mask), accept)
	if c.ChecksNothing() {
		// meta mark set meta mark & 0xf0ffffff | 0x01000000 accept
		return append(rules, mark)
	}
	for _, f := range ipFamilies {
		// ct original ip saddr . iif @pods4 meta mark set meta mark & 0xf0ffffff | 0x01000000 accept
		rules = append(rules, rule(comesFromPod(c.ChecksMAC(), f), mark))
	}
	// What comes from the chain output comes by no link.
	own := byNoLink()
	if c.ChecksMAC() {
		// Of a pod on a bridge it still has the MAC address, so this is the node itself.
		own = rule(own, state(expr.CtStateBitRELATED))
	}
	return append(rules,
		// ct state invalid,untracked meta mark set meta mark & 0xf0ffffff | 0x01000000 accept
		//
		// What is of no connection is not translated: the guard drops it, whosever it is.
		rule(state(untrackable), mark),
		// iif 0 meta mark set meta mark & 0xf0ffffff | 0x01000000 accept
		rule(own, mark),
		// goto forged
		goTo(egress.Forged))
}

// comesFromPod is `ct original ip saddr . iif @pods4`, or, of pods on a bridge,
// `ct original ip saddr . ether saddr @bridged4`.
//
// Not the packet's own source: with an ICMP error another pod could speak for this one.
func comesFromPod(byMAC bool, f ipFamily) []expr.Any {
	if byMAC {
		return rule(f.ctSaddr(), f.etherSaddr(), in(f.Bridged()))
	}
	return rule(f.ctSaddr(), f.iif(), in(f.Pods()))
}

// insideRules classify what pods with a link of their own send to the cluster. It is none of
// ours, but IPVS may send it on to a backend outside, and then the link is not known any more.
func insideRules(egress.Chain) [][]expr.Any {
	rules := [][]expr.Any{
		// iif 0 goto others
		rule(byNoLink(), goTo(egress.Others)),
	}
	for _, f := range ipFamilies {
		// ct original ip saddr . iif != @pods4 goto forged
		//
		// So it does not count, either.
		rules = append(rules, rule(f.ctSaddr(), f.iif(), notIn(f.Pods()), goTo(egress.Forged)))
	}
	// goto others
	return append(rules, goTo(egress.Others))
}

// byNoLink is `iif 0`: it comes from the chain output.
func byNoLink() []expr.Any { return meta(expr.MetaKeyIIF, native(0)) }

// forgedRules drop what claims to be a pod's, or to have been translated, and is not: but
// what the node itself sends.
func forgedRules(egress.Chain) [][]expr.Any {
	const loopback = 1 // the ifindex of lo in each network namespace (LOOPBACK_IFINDEX)
	rules := [][]expr.Any{
		// iif 0 fib saddr type local goto others
		rule(byNoLink(), exprs(&expr.Fib{Register: reg1, FlagSADDR: true, ResultADDRTYPE: true}, equals(native(unix.RTN_LOCAL))), goTo(egress.Others)),
		// iif lo goto others
		rule(meta(expr.MetaKeyIIF, native(loopback)), goTo(egress.Others)),
	}
	for _, f := range ipFamilies {
		// update @forged4 { ip saddr . iif counter }
		rules = append(rules, rule(f.saddr(), f.iif(), update(f.Forgeries())))
	}
	// drop
	return append(rules, drop)
}

// backRules classify what is sent to a pod: answers to its own connections get
// the link's mark too, for the reverse path filter.
func backRules(c egress.Chain) [][]expr.Any {
	return [][]expr.Any{
		// ct direction original goto inbound
		rule(direction(expr.CtDirOriginal), goTo(egress.Inbound)),
		// meta mark set meta mark & 0xf0ffffff | 0x01000000
		setMark(c.Mark, c.Mask),
	}
}

// inboundRules classify connections to pods, which are answered the way they came:
// those to an address of an egress link by that link. An FTP server's, that of a
// NodePort or of a load balancer are such.
func inboundRules(egress.Chain) (rules [][]expr.Any) {
	for _, f := range ipFamilies {
		// ct original ip daddr vmap @arrived4
		rules = append(rules, rule(f.ctDaddr(), vmap(f.Arrived())))
	}
	// goto others
	return append(rules, goTo(egress.Others))
}

// markRules mark what belongs to a link, or, in the chain others, what is none of ours, so that
// it skips the source rules.
func markRules(c egress.Chain) [][]expr.Any {
	return [][]expr.Any{
		// meta mark set meta mark & 0xf0ffffff | 0x01000000
		setMark(c.Mark, c.Mask),
	}
}

// postroutingRules translate. Only a connection's first packet comes here, so this is where
// the guard can afford to ask of each whether it really is none of ours: whoever has written
// the mark, the classification's elements or the packet's source, its pod opens no connection.
func postroutingRules(c egress.Chain) [][]expr.Any {
	rules := [][]expr.Any{
		// meta mark & 0x0f000000 == 0x0f000000 oif @links meta mark set meta mark & 0xf0ffffff goto unmarked
		//
		// Without the mark the guard looks at it once more when others have translated it.
		rule(markIs(c.Mask, c.Mask), exprs(&expr.Meta{Key: expr.MetaKeyOIF, Register: reg1}), in(egress.LinkSet),
			setMark(0, c.Mask), goTo(egress.Unmarked)),
		// meta mark & 0x0f000000 == 0x0f000000 goto unmarked
		rule(markIs(c.Mask, c.Mask), goTo(egress.Unmarked)),
	}
	for _, f := range ipFamilies {
		// snat ip to ip saddr . oif map @snat4 fully-random
		//
		// Without fully-random the kernel may give two connections of the same instant one
		// port, and drops a packet.
		rules = append(rules, rule(f.saddr(), f.oif(), []expr.Any{
			&expr.Lookup{SourceRegister: reg1, SetName: f.SNAT(), DestRegister: reg1, IsDestRegSet: true},
			// The kernel reads a range of one back, so that is what is written.
			&expr.NAT{Type: expr.NATTypeSourceNAT, Family: uint32(f.nfproto), RegAddrMin: reg1, RegAddrMax: reg1, FullyRandom: true},
		}))
	}
	return rules
}

// exitRules are the guard: what is for a link leaves by that link with an egress address of
// it, or not at all, whatever rule, route, mark or translation of whomever came in between.
// What comes back to pods may pass.
//
// What has passed gets the mark of what is none of ours. So the watcher's guard, which is behind
// this one, need not look at it again; and where the link is a tunnel, or something on top of one,
// the packet around this one, which inherits the mark, is not routed into the link's table again.
func exitRules(c egress.Chain) [][]expr.Any {
	rules := [][]expr.Any{
		// meta mark & 0x0f000000 == 0x0f000000 accept
		rule(markIs(c.Mask, c.Mask), accept),
	}
	// meta mark & 0x0f000000 != 0 meta mark set meta mark | 0x0f000000, which reads the mark once
	passMarked := []expr.Any{
		loadMark(),
		&expr.Bitwise{SourceRegister: reg1, DestRegister: reg2, Len: 4, Mask: native(c.Mask), Xor: native(0)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: reg2, Data: native(0)},
		bitwise(^c.Mask, c.Mask), storeMark(),
	}
	for _, f := range ipFamilies {
		// ip saddr . oif @exit4 meta mark & 0x0f000000 != 0 meta mark set meta mark | 0x0f000000 accept
		rules = append(rules, rule(leavesAsEgress(f), passMarked, accept))
	}
	rules = append(rules,
		// meta mark & 0x0f000000 == 0 goto unmarked
		rule(markIs(0, c.Mask), goTo(egress.Unmarked)),
		// ct direction reply meta mark set meta mark | 0x0f000000 accept
		rule(direction(expr.CtDirReply), setMark(c.Mask, c.Mask), accept),
		// ct state invalid,untracked goto dropped
		rule(state(untrackable), goTo(egress.Dropped)))
	for _, f := range ipFamilies {
		// ip daddr vmap @back4
		//
		// This ends with accept for all that is on its way to an annotated pod: from another one, or of
		// a connection that came by the link.
		rules = append(rules, rule(f.daddr(), vmap(f.Back())))
	}
	// goto dropped
	return append(rules, goTo(egress.Dropped))
}

// unmarkedRules find what somebody has taken our mark off: they know pods by the source
// with which a connection began, or, where there is none, by the packet's own. And
// they find what has got an egress address that is not for it.
func unmarkedRules(egress.Chain) (rules [][]expr.Any) {
	for _, f := range ipFamilies {
		rules = append(rules,
			// ct original ip saddr vmap @guard4
			rule(f.ctSaddr(), vmap(f.Guard())),
			// ct state invalid,untracked ip saddr vmap @guard4
			rule(f.proto(), state(untrackable), f.source(), vmap(f.Guard())))
	}
	const sourceNAT = 1 << 4 // IPS_SRC_NAT of linux/netfilter/nf_conntrack_common.h
	for _, f := range ipFamilies {
		// ct direction original ct status snat ip saddr . oif @exit4 goto dropped
		//
		// It is no pod's, and somebody's masquerade has found no other address on the link. It is the
		// first of its connection, which is not confirmed, so the next one is translated once more.
		rules = append(rules, rule(direction(expr.CtDirOriginal), hasBit(expr.CtKeySTATUS, sourceNAT),
			leavesAsEgress(f), goTo(egress.Dropped)))
	}
	return rules
}

// linkExitRules are the guard for packets of a link's pods that have no mark of ours.
func linkExitRules(c egress.Chain) [][]expr.Any {
	rules := [][]expr.Any{
		// ct direction reply accept
		rule(direction(expr.CtDirReply), accept),
	}
	for _, f := range ipFamilies {
		rules = append(rules,
			// ip daddr @cluster4 accept
			rule(f.daddr(), in(clusterSetOf(c, f.Family)), accept),
			// ip saddr . oif @exit4 accept
			rule(leavesAsEgress(f), accept),
			// ip daddr vmap @back4
			rule(f.daddr(), vmap(f.Back())))
	}
	// goto dropped
	return append(rules, goTo(egress.Dropped))
}

// droppedRules drop, and remember of which pod.
func droppedRules(egress.Chain) [][]expr.Any {
	rules := [][]expr.Any{
		// ct state invalid drop
		//
		// Conntrack translates no packet that it cannot place, a late one of a connection
		// that it has forgotten. They come on any day, so they are not remembered.
		rule(state(expr.CtStateBitINVALID), drop),
	}
	for _, f := range ipFamilies {
		rules = append(rules,
			// ct state untracked update @dropped4 { ip saddr . oif counter } drop
			rule(f.proto(), state(expr.CtStateBitUNTRACKED), f.source(), f.oif(), update(f.Drops()), drop),
			// update @dropped4 { ct original ip saddr . oif counter }
			rule(f.proto(), f.ctSaddr(), f.oif(), update(f.Drops())))
	}
	// counter drop
	return append(rules, rule(counter, drop))
}

// leavesAsEgress is `ip saddr . oif @exit4`.
func leavesAsEgress(f ipFamily) []expr.Any { return rule(f.saddr(), f.oif(), in(f.Exit())) }

// clusterSetOf returns the set of destinations that stay off the link of a chain.
func clusterSetOf(c egress.Chain, f egress.Family) string {
	if f == egress.IPv4 {
		return c.Cluster4
	}
	return c.Cluster6
}
