package kernel

import (
	"encoding/binary"
	"slices"

	"github.com/egress-ip/egress-ip/pkg/egress"
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// An nf_tables expression reads and writes 4-byte registers. NFT_REG_1 to 4 name
// them by four, NFT_REG32_00 (8) and up one by one; a concatenation of an
// address and something else needs the second of them to begin behind the first.
const (
	reg1 = 1
	reg2 = 2
)

// ipFamily is an address family, and where its packets have what rules look at.
type ipFamily struct {
	egress.Family
	nfproto          byte
	addr             nftables.SetDatatype
	size             uint32 // of an address
	sourceAt, destAt uint32 // in the header (RFC 791, RFC 8200)
	behindAddr       uint32 // the register behind an address in reg1
	ctSource, ctDest expr.CtKey
}

var (
	ip4 = ipFamily{egress.IPv4, unix.NFPROTO_IPV4, nftables.TypeIPAddr, 4, 12, 16, unix.NFT_REG32_01, expr.CtKeySRCIP, expr.CtKeyDSTIP}
	ip6 = ipFamily{egress.IPv6, unix.NFPROTO_IPV6, nftables.TypeIP6Addr, 16, 8, 24, unix.NFT_REG_2, expr.CtKeySRCIP6, expr.CtKeyDSTIP6}

	ipFamilies = []ipFamily{ip4, ip6}
)

// The words of a rule, each the expressions for what nft calls it. A rule, or a part of one, is made of them by rule.

func rule(parts ...[]expr.Any) []expr.Any { return slices.Concat(parts...) }
func exprs(e ...expr.Any) []expr.Any      { return e }

// proto is `meta nfproto ipv4`, or ipv6: in an inet table both families pass.
func (f ipFamily) proto() []expr.Any { return meta(expr.MetaKeyNFPROTO, []byte{f.nfproto}) }

// saddr and daddr are `ip saddr` and `ip daddr`; source and dest are the same of a packet whose family is known.
func (f ipFamily) saddr() []expr.Any  { return rule(f.proto(), f.source()) }
func (f ipFamily) daddr() []expr.Any  { return rule(f.proto(), f.dest()) }
func (f ipFamily) source() []expr.Any { return exprs(networkHeader(f.sourceAt, f.size)) }
func (f ipFamily) dest() []expr.Any   { return exprs(networkHeader(f.destAt, f.size)) }

// ctSaddr and ctDaddr are `ct original ip saddr` and `ct original ip daddr`, which only packets of the family have.
func (f ipFamily) ctSaddr() []expr.Any { return exprs(ctOriginal(f.ctSource)) }
func (f ipFamily) ctDaddr() []expr.Any { return exprs(ctOriginal(f.ctDest)) }

// iif, oif and etherSaddr are `. iif`, `. oif` and `. ether saddr` (IEEE 802.3), behind an address.
func (f ipFamily) iif() []expr.Any {
	return exprs(&expr.Meta{Key: expr.MetaKeyIIF, Register: f.behindAddr})
}
func (f ipFamily) oif() []expr.Any {
	return exprs(&expr.Meta{Key: expr.MetaKeyOIF, Register: f.behindAddr})
}
func (f ipFamily) etherSaddr() []expr.Any {
	return exprs(&expr.Payload{DestRegister: f.behindAddr, Base: expr.PayloadBaseLLHeader, Offset: 6, Len: 6})
}

func networkHeader(at, size uint32) *expr.Payload {
	return &expr.Payload{DestRegister: reg1, Base: expr.PayloadBaseNetworkHeader, Offset: at, Len: size}
}

func ctOriginal(key expr.CtKey) *expr.Ct {
	return &expr.Ct{Key: key, Register: reg1, Direction: expr.CtDirOriginal}
}

var (
	counter = exprs(&expr.Counter{})
	accept  = exprs(&expr.Verdict{Kind: expr.VerdictAccept})
	drop    = exprs(&expr.Verdict{Kind: expr.VerdictDrop})
	returns = exprs(&expr.Verdict{Kind: expr.VerdictReturn})
)

func goTo(chain string) []expr.Any { return exprs(&expr.Verdict{Kind: expr.VerdictGoto, Chain: chain}) }
func jump(chain string) []expr.Any { return exprs(&expr.Verdict{Kind: expr.VerdictJump, Chain: chain}) }

// vmap is `vmap @map`, in `@set`, notIn `!= @set` and update `update @set { .. counter }`, with the key in reg1.
func vmap(name string) []expr.Any {
	return exprs(&expr.Lookup{SourceRegister: reg1, SetName: name, IsDestRegSet: true})
}
func in(set string) []expr.Any { return exprs(&expr.Lookup{SourceRegister: reg1, SetName: set}) }
func notIn(set string) []expr.Any {
	return exprs(&expr.Lookup{SourceRegister: reg1, SetName: set, Invert: true})
}
func update(set string) []expr.Any {
	return exprs(&expr.Dynset{SrcRegKey: reg1, SetName: set, Operation: unix.NFT_DYNSET_OP_UPDATE, Exprs: counter})
}

func equals(data []byte) *expr.Cmp  { return &expr.Cmp{Op: expr.CmpOpEq, Register: reg1, Data: data} }
func differs(data []byte) *expr.Cmp { return &expr.Cmp{Op: expr.CmpOpNeq, Register: reg1, Data: data} }

// meta is `meta key data`, direction `ct direction original` or reply, and state `ct state ..`.
func meta(key expr.MetaKey, data []byte) []expr.Any {
	return exprs(&expr.Meta{Key: key, Register: reg1}, equals(data))
}
func direction(direction byte) []expr.Any {
	return exprs(&expr.Ct{Key: expr.CtKeyDIRECTION, Register: reg1}, equals([]byte{direction}))
}
func state(bits uint32) []expr.Any { return hasBit(expr.CtKeySTATE, bits) }

// untrackable is what conntrack cannot place, or is told not to track.
const untrackable = expr.CtStateBitINVALID | expr.CtStateBitUNTRACKED

func hasBit(key expr.CtKey, bits uint32) []expr.Any {
	return exprs(&expr.Ct{Key: key, Register: reg1}, bitwise(bits, 0), differs(native(0)))
}

// markBits is `meta mark & mask`, to be compared or looked up; markIs is `meta mark & mask == mark`, and setMark
// `meta mark set meta mark & ~mask | mark`: bits outside the mask stay.
func markBits(mask uint32) []expr.Any     { return exprs(loadMark(), bitwise(mask, 0)) }
func markIs(mark, mask uint32) []expr.Any { return append(markBits(mask), equals(native(mark))) }
func setMark(mark, mask uint32) []expr.Any {
	return exprs(loadMark(), bitwise(^mask, mark), storeMark())
}

func loadMark() *expr.Meta { return &expr.Meta{Key: expr.MetaKeyMARK, Register: reg1} }
func storeMark() *expr.Meta {
	return &expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: reg1}
}

// bitwise keeps the bits of a mask and then turns those of xor.
func bitwise(mask, xor uint32) *expr.Bitwise {
	return &expr.Bitwise{SourceRegister: reg1, DestRegister: reg1, Len: 4, Mask: native(mask), Xor: native(xor)}
}

// native is how a mark, or an ifindex, is in a register.
func native(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }
