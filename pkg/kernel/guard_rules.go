package kernel

import (
	"slices"

	"github.com/egress-ip/egress-ip/pkg/egress"
	"github.com/google/nftables/expr"
)

// exitRules are the guard: what is for a link leaves by that link with an egress address of
// it, or not at all, whatever rule, route, mark or translation of whomever came in between.
// What comes back to pods may pass.
//
// What has passed gets the mark of what is none of ours. So the watcher's guard, which is behind
// this one, need not look at it again; and where the link is a tunnel, or something on top of one,
// the packet around this one, which inherits the mark, is not routed into the link's table again.
func exitRules(mask uint32) [][]expr.Any {
	rules := [][]expr.Any{
		// meta mark & 0x0f000000 == 0x0f000000 accept
		slices.Concat(hasMark(mask, mask), accept()),
	}
	for _, family := range egress.Families {
		// ip saddr . oif @exit4 meta mark & 0x0f000000 != 0 meta mark set meta mark | 0x0f000000 accept
		rules = append(rules, slices.Concat(leavesAsEgress(family), passMarked(mask), accept()))
	}
	rules = append(rules,
		// meta mark & 0x0f000000 == 0 goto unmarked
		slices.Concat(hasMark(0, mask), goTo(egress.Unmarked)),
		// ct direction reply meta mark set meta mark | 0x0f000000 accept
		slices.Concat(isDirection(expr.CtDirReply), setMark(mask, mask), accept()),
		// ct state invalid,untracked goto dropped
		slices.Concat(hasState(expr.CtStateBitINVALID|expr.CtStateBitUNTRACKED), goTo(egress.Dropped)))
	for _, family := range egress.Families {
		rules = append(rules, toPod(family))
	}
	// goto dropped
	return append(rules, goTo(egress.Dropped))
}

// passMarked is `meta mark & mask != 0 meta mark set meta mark | mask`, which reads the mark once.
func passMarked(mask uint32) []expr.Any {
	const reg2 = 2
	return []expr.Any{
		loadMark(),
		&expr.Bitwise{SourceRegister: reg1, DestRegister: reg2, Len: 4, Mask: native(mask), Xor: native(0)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: reg2, Data: native(0)},
		bitwise(^mask, mask),
		&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: reg1},
	}
}

// toPod is `ip daddr vmap @back4`, which ends with accept for all that is on its way to an
// annotated pod: from another one, or of a connection that came by the link.
func toPod(family egress.Family) []expr.Any {
	f := inet[family]
	return slices.Concat(protocol(f.nfproto), []expr.Any{
		f.dest(), &expr.Lookup{SourceRegister: reg1, SetName: family.Back(), IsDestRegSet: true},
	})
}

// unmarkedRules find what somebody has taken our mark off: they know pods by the source
// with which a connection began, or, where there is none, by the packet's own. And
// they find what has got an egress address that is not for it.
func unmarkedRules() [][]expr.Any {
	var rules [][]expr.Any
	for _, family := range egress.Families {
		f := inet[family]
		rules = append(rules,
			// ct original ip saddr vmap @guard4
			[]expr.Any{
				&expr.Ct{Key: f.ctSource, Register: reg1, Direction: expr.CtDirOriginal},
				&expr.Lookup{SourceRegister: reg1, SetName: family.Guard(), IsDestRegSet: true},
			},
			// ct state invalid,untracked ip saddr vmap @guard4
			slices.Concat(protocol(f.nfproto), hasState(expr.CtStateBitINVALID|expr.CtStateBitUNTRACKED), []expr.Any{
				f.source(), &expr.Lookup{SourceRegister: reg1, SetName: family.Guard(), IsDestRegSet: true},
			}))
	}
	for _, family := range egress.Families {
		// ct direction original ct status snat ip saddr . oif @exit4 goto dropped
		//
		// It is no pod's, and somebody's masquerade has found no other address on the link. It is the
		// first of its connection, which is not confirmed, so the next one is translated once more.
		rules = append(rules, slices.Concat(isDirection(expr.CtDirOriginal), isSourceTranslated(),
			leavesAsEgress(family), goTo(egress.Dropped)))
	}
	return rules
}

// linkExitRules are the guard for packets of a link's pods that have no mark of ours.
func linkExitRules(c egress.Chain) [][]expr.Any {
	rules := [][]expr.Any{
		// ct direction reply accept
		slices.Concat(isDirection(expr.CtDirReply), accept()),
	}
	for _, family := range egress.Families {
		f := inet[family]
		rules = append(rules,
			// ip daddr @cluster4 accept
			slices.Concat(protocol(f.nfproto), []expr.Any{
				f.dest(), &expr.Lookup{SourceRegister: reg1, SetName: clusterSetOf(c, family)},
			}, accept()),
			// ip saddr . oif @exit4 accept
			slices.Concat(leavesAsEgress(family), accept()),
			// ip daddr vmap @back4
			toPod(family))
	}
	// goto dropped
	return append(rules, goTo(egress.Dropped))
}

// droppedRules drop, and remember of which pod.
func droppedRules() [][]expr.Any {
	rules := [][]expr.Any{
		// ct state invalid drop
		//
		// Conntrack translates no packet that it cannot place, a late one of a connection
		// that it has forgotten. They come on any day, so they are not remembered.
		slices.Concat(hasState(expr.CtStateBitINVALID), []expr.Any{verdict(expr.VerdictDrop)}),
	}
	for _, family := range egress.Families {
		f := inet[family]
		oif := &expr.Meta{Key: expr.MetaKeyOIF, Register: f.behindAddr}
		rules = append(rules,
			// ct state untracked update @dropped4 { ip saddr . oif counter } drop
			slices.Concat(protocol(f.nfproto), hasState(expr.CtStateBitUNTRACKED), []expr.Any{
				f.source(), oif, remember(family.Drops()), verdict(expr.VerdictDrop),
			}),
			// update @dropped4 { ct original ip saddr . oif counter }
			slices.Concat(protocol(f.nfproto), []expr.Any{
				&expr.Ct{Key: f.ctSource, Register: reg1, Direction: expr.CtDirOriginal}, oif, remember(family.Drops()),
			}))
	}
	// counter drop
	return append(rules, []expr.Any{&expr.Counter{}, verdict(expr.VerdictDrop)})
}

// leavesAsEgress is `ip saddr . oif @exit4`.
func leavesAsEgress(family egress.Family) []expr.Any {
	f := inet[family]
	return slices.Concat(protocol(f.nfproto), []expr.Any{
		f.source(), &expr.Meta{Key: expr.MetaKeyOIF, Register: f.behindAddr}, &expr.Lookup{SourceRegister: reg1, SetName: family.Exit()},
	})
}

// isSourceTranslated is `ct status snat`.
func isSourceTranslated() []expr.Any {
	const sourceNAT = 1 << 4 // IPS_SRC_NAT of linux/netfilter/nf_conntrack_common.h
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATUS, Register: reg1},
		bitwise(sourceNAT, 0), &expr.Cmp{Op: expr.CmpOpNeq, Register: reg1, Data: native(0)},
	}
}
