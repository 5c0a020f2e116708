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
			fromPod(family),
			// ip daddr vmap @back4
			slices.Concat(protocol(f.nfproto), []expr.Any{
				f.dest(), &expr.Lookup{SourceRegister: reg1, SetName: family.Back(), IsDestRegSet: true},
			}))
	}
	return append(rules,
		// ct state related jump related
		toRelated(),
		// meta mark & 0xffff3fff vmap @unmarked
		//
		// People match their marks without a mask, so one that is there is left alone.
		// The 0 is an element of a map, because while the ruleset is flushed the kernel goes on
		// with the rules for some 50 µs after the elements of all sets have gone. A rule
		// that needs none would then mark what is a pod's as not ours.
		[]expr.Any{
			loadMark(), bitwise(foreign, 0),
			&expr.Lookup{SourceRegister: reg1, SetName: egress.UnmarkedMap, IsDestRegSet: true},
		})
}

// outputRules classify what the node itself says about egress connections: ICMP
// errors about what comes back, a packet too big for the pod's link above all.
// They are translated to the egress address, so they leave by its link.
//
// What pods send to a Service comes here, too, where kube-proxy has IPVS translate it: to its
// backend. That has been in the chain prerouting, and so it has a mark, which the node's own
// packets have not.
func outputRules(mask uint32) [][]expr.Any {
	rules := [][]expr.Any{
		// ct state related jump related
		toRelated(),
		// meta mark & 0x0f000000 == 0 accept
		slices.Concat(hasMark(0, mask), accept()),
	}
	for _, family := range egress.Families {
		// ip saddr vmap @out4
		rules = append(rules, fromPod(family))
	}
	return rules
}

// fromPod is `ip saddr vmap @out4`.
func fromPod(family egress.Family) []expr.Any {
	f := inet[family]
	return slices.Concat(protocol(f.nfproto), []expr.Any{
		f.source(), &expr.Lookup{SourceRegister: reg1, SetName: family.Out(), IsDestRegSet: true},
	})
}

// toRelated is `ct state related jump related`.
func toRelated() []expr.Any {
	return append(hasState(expr.CtStateBitRELATED), &expr.Verdict{Kind: expr.VerdictJump, Chain: egress.Related})
}

// relatedRules classify what somebody else than the pod says about its egress connections,
// as if the pod had: conntrack translates that to the egress address, too. The node may, and
// nobody else, for an ICMP error that a plain pod forges would end the connection.
func relatedRules() [][]expr.Any {
	var rules [][]expr.Any
	for _, family := range egress.Families {
		// ct direction original ct original ip saddr vmap @out4
		rules = append(rules, slices.Concat(isDirection(expr.CtDirOriginal), []expr.Any{
			&expr.Ct{Key: inet[family].ctSource, Register: reg1, Direction: expr.CtDirOriginal},
			&expr.Lookup{SourceRegister: reg1, SetName: family.Out(), IsDestRegSet: true},
		}))
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
		slices.Concat(isDirection(expr.CtDirReply), goTo(egress.Inbound)),
	}
	inside := egress.Inside
	if c.ChecksNothing() || c.ChecksMAC() {
		inside = egress.Others
	}
	for _, family := range egress.Families {
		f := inet[family]
		// ip daddr @cluster4 goto inside
		rules = append(rules, slices.Concat(protocol(f.nfproto), []expr.Any{
			f.dest(), &expr.Lookup{SourceRegister: reg1, SetName: clusterSetOf(c, family)},
		}, goTo(inside)))
	}
	mark := append(setMark(c.Mark, c.Mask), verdict(expr.VerdictAccept))
	if c.ChecksNothing() {
		// meta mark set meta mark & 0xf0ffffff | 0x01000000 accept
		return append(rules, mark)
	}
	for _, family := range egress.Families {
		// ct original ip saddr . iif @pods4 meta mark set meta mark & 0xf0ffffff | 0x01000000 accept
		rules = append(rules, slices.Concat(comesFromPod(c.ChecksMAC(), family), mark))
	}
	// What comes from the chain output comes by no link.
	own := byNoLink()
	if c.ChecksMAC() {
		// Of a pod on a bridge it still has the MAC address, so this is the node itself.
		own = append(own, hasState(expr.CtStateBitRELATED)...)
	}
	return append(rules,
		// ct state invalid,untracked meta mark set meta mark & 0xf0ffffff | 0x01000000 accept
		//
		// What is of no connection is not translated: the guard drops it, whosever it is.
		slices.Concat(hasState(expr.CtStateBitINVALID|expr.CtStateBitUNTRACKED), mark),
		// iif 0 meta mark set meta mark & 0xf0ffffff | 0x01000000 accept
		slices.Concat(own, mark),
		// goto forged
		goTo(egress.Forged))
}

// comesFromPod is `ct original ip saddr . iif @pods4`, or, of pods on a bridge,
// `ct original ip saddr . ether saddr @bridged4`.
//
// Not the packet's own source: with an ICMP error another pod could speak for this one.
func comesFromPod(byMAC bool, family egress.Family) []expr.Any {
	f := inet[family]
	at, where := family.Pods(), expr.Any(&expr.Meta{Key: expr.MetaKeyIIF, Register: f.behindAddr})
	if byMAC {
		at, where = family.Bridged(), etherSource(f.behindAddr)
	}
	return []expr.Any{
		&expr.Ct{Key: f.ctSource, Register: reg1, Direction: expr.CtDirOriginal}, where,
		&expr.Lookup{SourceRegister: reg1, SetName: at},
	}
}

// insideRules classify what pods with a link of their own send to the cluster. It is none of
// ours, but IPVS may send it on to a backend outside, and then the link is not known any more.
func insideRules() [][]expr.Any {
	rules := [][]expr.Any{
		// iif 0 goto others
		slices.Concat(byNoLink(), goTo(egress.Others)),
	}
	for _, family := range egress.Families {
		// ct original ip saddr . iif != @pods4 goto forged
		elsewhere := comesFromPod(false, family)
		elsewhere[2].(*expr.Lookup).Invert = true // nor does it count
		rules = append(rules, slices.Concat(elsewhere, goTo(egress.Forged)))
	}
	// goto others
	return append(rules, goTo(egress.Others))
}

// byNoLink is `iif 0`: it comes from the chain output.
func byNoLink() []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyIIF, Register: reg1}, equals(native(0))}
}

// forgedRules drop what claims to be a pod's, or to have been translated, and is not: but
// what the node itself sends.
func forgedRules() [][]expr.Any {
	rules := [][]expr.Any{
		// iif 0 fib saddr type local goto others
		slices.Concat(byNoLink(), []expr.Any{
			&expr.Fib{Register: reg1, FlagSADDR: true, ResultADDRTYPE: true}, equals(native(unix.RTN_LOCAL)),
		}, goTo(egress.Others)),
		// iif lo goto others
		slices.Concat([]expr.Any{&expr.Meta{Key: expr.MetaKeyIIF, Register: reg1}, equals(native(loopbackIndex))}, goTo(egress.Others)),
	}
	for _, family := range egress.Families {
		f := inet[family]
		// update @forged4 { ip saddr . iif counter }
		rules = append(rules, slices.Concat(protocol(f.nfproto), []expr.Any{
			f.source(), &expr.Meta{Key: expr.MetaKeyIIF, Register: f.behindAddr}, remember(family.Forgeries()),
		}))
	}
	// drop
	return append(rules, []expr.Any{verdict(expr.VerdictDrop)})
}

// loopbackIndex is the ifindex of lo in each network namespace (LOOPBACK_IFINDEX).
const loopbackIndex = 1

// backRules classify what is sent to a pod: answers to its own connections get
// the link's mark too, for the reverse path filter.
func backRules(mark, mask uint32) [][]expr.Any {
	return [][]expr.Any{
		// ct direction original goto inbound
		slices.Concat(isDirection(expr.CtDirOriginal), goTo(egress.Inbound)),
		setMark(mark, mask),
	}
}

// inboundRules classify connections to pods, which are answered the way they came:
// those to an address of an egress link by that link. An FTP server's, that of a
// NodePort or of a load balancer are such.
func inboundRules() [][]expr.Any {
	var rules [][]expr.Any
	for _, family := range egress.Families {
		// ct original ip daddr vmap @arrived4
		rules = append(rules, []expr.Any{
			&expr.Ct{Key: inet[family].ctDest, Register: reg1, Direction: expr.CtDirOriginal},
			&expr.Lookup{SourceRegister: reg1, SetName: family.Arrived(), IsDestRegSet: true},
		})
	}
	// goto others
	return append(rules, goTo(egress.Others))
}

// othersRules mark what is none of ours, so that it skips the source rules.
func othersRules(mask uint32) [][]expr.Any {
	return [][]expr.Any{
		// meta mark set meta mark | 0x0f000000
		setMark(mask, mask),
	}
}

// postroutingRules translate. Only a connection's first packet comes here, so this is where
// the guard can afford to ask of each whether it really is none of ours: whoever has written
// the mark, the classification's elements or the packet's source, its pod opens no connection.
func postroutingRules(mask uint32) [][]expr.Any {
	rules := [][]expr.Any{
		// meta mark & 0x0f000000 == 0x0f000000 oif @links meta mark set meta mark & 0xf0ffffff goto unmarked
		//
		// Without the mark the guard looks at it once more when others have translated it.
		slices.Concat(hasMark(mask, mask), []expr.Any{
			&expr.Meta{Key: expr.MetaKeyOIF, Register: reg1}, &expr.Lookup{SourceRegister: reg1, SetName: egress.LinkSet},
		}, setMark(0, mask), goTo(egress.Unmarked)),
		// meta mark & 0x0f000000 == 0x0f000000 goto unmarked
		slices.Concat(hasMark(mask, mask), goTo(egress.Unmarked)),
	}
	for _, family := range egress.Families {
		f := inet[family]
		// snat ip to ip saddr . oif map @snat4 fully-random
		//
		// Without fully-random the kernel may give two connections of the same instant one
		// port, and drops a packet.
		rules = append(rules, slices.Concat(protocol(f.nfproto), []expr.Any{
			f.source(),
			&expr.Meta{Key: expr.MetaKeyOIF, Register: f.behindAddr},
			&expr.Lookup{SourceRegister: reg1, SetName: family.SNAT(), DestRegister: reg1, IsDestRegSet: true},
			// The kernel reads a range of one back, so that is what is written.
			&expr.NAT{Type: expr.NATTypeSourceNAT, Family: uint32(f.nfproto), RegAddrMin: reg1, RegAddrMax: reg1, FullyRandom: true},
		}))
	}
	return rules
}

func accept() []expr.Any { return []expr.Any{verdict(expr.VerdictAccept)} }

// remember is `update @set { .. counter }`, with the key in reg1.
func remember(set string) *expr.Dynset {
	return &expr.Dynset{SrcRegKey: reg1, SetName: set, Operation: unix.NFT_DYNSET_OP_UPDATE, Exprs: []expr.Any{&expr.Counter{}}}
}

// isDirection is `ct direction original` or reply.
func isDirection(direction byte) []expr.Any {
	return []expr.Any{&expr.Ct{Key: expr.CtKeyDIRECTION, Register: reg1}, equals([]byte{direction})}
}

// hasState is `ct state ..`.
func hasState(bit uint32) []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: reg1},
		bitwise(bit, 0), &expr.Cmp{Op: expr.CmpOpNeq, Register: reg1, Data: native(0)},
	}
}

// hasMark is `meta mark & mask == mark`.
func hasMark(mark, mask uint32) []expr.Any {
	return []expr.Any{loadMark(), bitwise(mask, 0), equals(native(mark))}
}

func goTo(chain string) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: expr.VerdictGoto, Chain: chain}}
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

// native is how a mark, or an ifindex, is in a register.
func native(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }
