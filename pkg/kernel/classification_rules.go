package kernel

import (
	"encoding/binary"
	"slices"

	"github.com/egress-ip/egress-ip/pkg/egress"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// preroutingRules classify what comes in. Foreign are the bits in which somebody else's
// mark shows.
func preroutingRules(foreign uint32) [][]expr.Any {
	var rules [][]expr.Any
	for _, family := range egress.Families {
		f := inet[family]
		rules = append(rules,
			// ip saddr vmap @out4
			slices.Concat(protocol(f.nfproto), []expr.Any{
				f.source(), &expr.Lookup{SourceRegister: reg1, SetName: f.out, IsDestRegSet: true},
			}),
			// ip daddr vmap @back4
			slices.Concat(protocol(f.nfproto), []expr.Any{
				f.dest(), &expr.Lookup{SourceRegister: reg1, SetName: f.back, IsDestRegSet: true},
			}))
	}
	return append(rules,
		// meta mark & 0xffff3fff vmap @unmarked
		//
		// People match their marks without a mask, so one that is there is left alone.
		// The 0 stands in a map, because while the ruleset is flushed the kernel goes on
		// with the rules for some 50 µs after the elements of all sets have gone. A rule
		// that needs none would then mark what is a pod's as not ours.
		[]expr.Any{
			loadMark(), bitwise(foreign, 0),
			&expr.Lookup{SourceRegister: reg1, SetName: unmarkedMap().Name, IsDestRegSet: true},
		})
}

// outputRules classify what the node itself says about egress connections: ICMP
// errors about what comes back, a packet too big for the pod's link above all.
// They are translated to the egress address, so they leave by its link.
func outputRules() [][]expr.Any {
	var rules [][]expr.Any
	for _, family := range egress.Families {
		f := inet[family]
		// ct state related ct direction original ct original ip saddr vmap @out4
		rules = append(rules, []expr.Any{
			&expr.Ct{Key: expr.CtKeySTATE, Register: reg1},
			bitwise(expr.CtStateBitRELATED, 0), &expr.Cmp{Op: expr.CmpOpNeq, Register: reg1, Data: native(0)},
			&expr.Ct{Key: expr.CtKeyDIRECTION, Register: reg1}, equals([]byte{0}),
			&expr.Ct{Key: f.ctSource, Register: reg1}, // direction 0: original
			&expr.Lookup{SourceRegister: reg1, SetName: f.out, IsDestRegSet: true},
		})
	}
	return rules
}

// outRules classify what a pod sends: only connections that it has opened itself,
// to destinations outside the cluster, are for the link. These may be counted, at
// some 5 % of what a packet costs the node.
func outRules(mark, mask uint32, counted bool) [][]expr.Any {
	rules := [][]expr.Any{
		// ct direction reply goto others
		directionGotoOthers(1),
	}
	for _, family := range egress.Families {
		f := inet[family]
		// ip daddr @cluster4 goto others
		rules = append(rules, slices.Concat(protocol(f.nfproto), []expr.Any{
			f.dest(), &expr.Lookup{SourceRegister: reg1, SetName: f.cluster},
			&expr.Verdict{Kind: expr.VerdictGoto, Chain: egress.Others},
		}))
	}
	rules = append(rules,
		// ct state invalid fib daddr type unicast drop
		//
		// Conntrack translates no packet that it cannot place (a late one of a
		// connection that it has forgotten): it would leave with the pod's address.
		[]expr.Any{
			&expr.Ct{Key: expr.CtKeySTATE, Register: reg1},
			bitwise(expr.CtStateBitINVALID, 0), &expr.Cmp{Op: expr.CmpOpNeq, Register: reg1, Data: native(0)},
			&expr.Fib{Register: reg1, FlagDADDR: true, ResultADDRTYPE: true}, equals(native(unix.RTN_UNICAST)),
			verdict(expr.VerdictDrop),
		})
	if counted {
		for _, family := range egress.Families {
			f := inet[family]
			// ip saddr @sent4
			rules = append(rules, slices.Concat(protocol(f.nfproto), []expr.Any{
				f.source(), &expr.Lookup{SourceRegister: reg1, SetName: f.sent},
			}))
		}
	}
	return append(rules, setMark(mark, mask))
}

// backRules classify what is sent to a pod: answers to its own connections get
// the link's mark too, for the reverse path filter.
func backRules(mark, mask uint32) [][]expr.Any {
	return [][]expr.Any{
		// ct direction original goto others
		directionGotoOthers(0),
		setMark(mark, mask),
	}
}

// othersRules mark what is none of ours, so that it skips the source rules.
func othersRules(mask uint32) [][]expr.Any {
	return [][]expr.Any{
		// meta mark set meta mark | 0x0f000000
		setMark(mask, mask),
	}
}

func postroutingRules() [][]expr.Any {
	var rules [][]expr.Any
	for _, family := range egress.Families {
		f := inet[family]
		rules = append(rules,
			// ip daddr @cluster4 return
			slices.Concat(protocol(f.nfproto), []expr.Any{
				f.dest(), &expr.Lookup{SourceRegister: reg1, SetName: f.cluster},
				verdict(expr.VerdictReturn),
			}),
			// snat ip to ip saddr . oifname map @snat4
			slices.Concat(protocol(f.nfproto), []expr.Any{
				f.source(),
				&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: f.behindAddr},
				&expr.Lookup{SourceRegister: reg1, SetName: f.snat, DestRegister: reg1, IsDestRegSet: true},
				// The kernel reads a range of one back, so that is what is written.
				&expr.NAT{Type: expr.NATTypeSourceNAT, Family: uint32(f.nfproto), RegAddrMin: reg1, RegAddrMax: reg1},
			}))
	}
	return rules
}

// exitRules take a link's mark off what leaves. Where the link is a tunnel, or
// something on top of one, the packet around this one would inherit the mark, and be
// routed into the link's table again.
func exitRules(mask uint32) [][]expr.Any {
	return [][]expr.Any{
		// meta mark & 0x0f000000 == 0x0f000000 accept
		{loadMark(), bitwise(mask, 0), equals(native(mask)), verdict(expr.VerdictAccept)},
		// meta mark set meta mark & 0xf0ffffff
		setMark(0, mask),
	}
}

// directionGotoOthers is `ct direction original goto others` (0) or reply (1).
func directionGotoOthers(direction byte) []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeyDIRECTION, Register: reg1}, equals([]byte{direction}),
		&expr.Verdict{Kind: expr.VerdictGoto, Chain: egress.Others},
	}
}

// setMark is `meta mark set meta mark & ~mask | mark`: bits outside the mask stay.
func setMark(mark, mask uint32) []expr.Any {
	return []expr.Any{
		loadMark(), bitwise(^mask, mark),
		&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: reg1},
	}
}

func loadMark() *expr.Meta { return &expr.Meta{Key: expr.MetaKeyMARK, Register: reg1} }

// bitwise keeps the bits of a mask and then turns those of xor.
func bitwise(mask, xor uint32) *expr.Bitwise {
	return &expr.Bitwise{SourceRegister: reg1, DestRegister: reg1, Len: 4, Mask: native(mask), Xor: native(xor)}
}

// native is how a mark stands in a register.
func native(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }
