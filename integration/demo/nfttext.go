package main

import (
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// ruleWriter turns the expressions of a rule, a program for a machine with
// registers, back into the words of nft. It knows those that egress-ip and the
// demo write; any other is shown by its type, in square brackets.
//
// What has been loaded waits in operands until an expression uses it; none of
// these programs loads what it does not use next.
type ruleWriter struct {
	anonymous map[string]string
	family    byte   // NFPROTO of the packets that the rule can still be about; 0: both
	l4        byte   // their protocol; 0: any
	implied   string // said by what is to come if that is about the same protocol
	operands  []operand
	kept      operand // what was loaded, where a bitwise has put its result elsewhere
	words     []string
}

// operand is what a register holds.
type operand struct {
	text string // such as "ip saddr"
	kind string // an nft type: how constants beside it are written
	size int    // of the whole field, where only its first bytes were loaded
	data []byte // of a constant
}

func ruleOf(family nftables.TableFamily, exprs []expr.Any, anonymous map[string]string) nftRule {
	w := &ruleWriter{anonymous: anonymous}
	if family != nftables.TableFamilyINet {
		w.family = byte(family)
	}
	for _, e := range exprs {
		w.write(e)
	}
	w.flushImplied()
	return nftRule{strings.Join(w.words, " "), family == nftables.TableFamilyINet && w.family == unix.NFPROTO_IPV6}
}

func (w *ruleWriter) write(e expr.Any) {
	switch e := e.(type) {
	case *expr.Meta:
		w.meta(e)
	case *expr.Payload:
		w.payload(e)
	case *expr.Ct:
		w.ct(e)
	case *expr.Fib:
		w.load(operand{text: "fib saddr type", kind: "fib_addrtype"}) // the only one that is used
	case *expr.Immediate:
		w.load(operand{data: e.Data})
	case *expr.Bitwise:
		w.bitwise(e)
	case *expr.Cmp:
		w.compare(e)
	case *expr.Lookup:
		w.lookup(e)
	case *expr.NAT:
		w.nat(e)
	case *expr.Masq:
		w.say("masquerade")
	case *expr.Dynset: // the only one that is used
		w.say("update @"+e.SetName, "{", w.use().text, "counter }")
	case *expr.Counter:
		w.say("counter")
	case *expr.Verdict:
		w.say(verdictText(*e))
	default:
		w.say(fmt.Sprintf("[%T]", e))
	}
}

func (w *ruleWriter) load(o operand) { w.operands = append(w.operands, o) }

func (w *ruleWriter) say(words ...string) {
	w.flushImplied()
	w.words = append(w.words, words...)
}

func (w *ruleWriter) flushImplied() {
	if w.implied != "" {
		w.words = append(w.words, w.implied)
		w.implied = ""
	}
}

// use takes what was loaded, as one text and with the kind of the last.
func (w *ruleWriter) use() operand {
	var texts []string
	var o operand
	for _, o = range w.operands {
		texts = append(texts, o.text)
	}
	o.text = strings.Join(texts, " . ")
	w.operands = nil
	return o
}

func (w *ruleWriter) meta(e *expr.Meta) {
	names := map[expr.MetaKey]operand{
		expr.MetaKeyNFPROTO: {text: "meta nfproto", kind: "nf_proto"},
		expr.MetaKeyL4PROTO: {text: "meta l4proto", kind: "inet_proto"},
		expr.MetaKeyMARK:    {text: "meta mark", kind: "mark"},
		expr.MetaKeyIIF:     {text: "iif", kind: "iface_index"},
		expr.MetaKeyOIF:     {text: "oif", kind: "iface_index"},
		expr.MetaKeyIIFNAME: {text: "iifname", kind: "ifname"},
		expr.MetaKeyOIFNAME: {text: "oifname", kind: "ifname"},
	}
	o, known := names[e.Key]
	if !known {
		o = operand{text: fmt.Sprintf("[meta %d]", e.Key)}
	}
	if e.SourceRegister {
		w.say(o.text, "set", w.constant(o.kind))
		return
	}
	w.load(o)
}

// constant takes what was loaded, and writes it as a value of a kind if it is one.
func (w *ruleWriter) constant(kind string) string {
	o := w.use()
	if o.data != nil {
		return dataText(kind, o.data)
	}
	return o.text
}

func (w *ruleWriter) payload(e *expr.Payload) {
	o := w.field(e)
	if e.OperationType == expr.PayloadWrite {
		w.say(o.text, "set", w.constant(o.kind))
		return
	}
	w.load(o)
}

// field names what is at an offset of a header. A field says the protocol,
// so that nft does not print the check of it.
func (w *ruleWriter) field(e *expr.Payload) operand {
	fields := []struct {
		family, l4   byte
		base         expr.PayloadBase
		offset, size uint32
		text, kind   string
	}{
		{unix.NFPROTO_IPV4, 0, expr.PayloadBaseNetworkHeader, 12, 4, "ip saddr", "ipv4_addr"},
		{unix.NFPROTO_IPV4, 0, expr.PayloadBaseNetworkHeader, 16, 4, "ip daddr", "ipv4_addr"},
		{unix.NFPROTO_IPV6, 0, expr.PayloadBaseNetworkHeader, 8, 16, "ip6 saddr", "ipv6_addr"},
		{unix.NFPROTO_IPV6, 0, expr.PayloadBaseNetworkHeader, 24, 16, "ip6 daddr", "ipv6_addr"},
		{0, unix.IPPROTO_TCP, expr.PayloadBaseTransportHeader, 13, 1, "tcp flags", "tcp_flags"},
		{0, unix.IPPROTO_ICMPV6, expr.PayloadBaseTransportHeader, 0, 1, "icmpv6 type", "icmpv6_type"},
	}
	for _, f := range fields {
		if f.family != 0 && f.family == w.family || f.l4 != 0 && f.l4 == w.l4 {
			if f.base == e.Base && f.offset == e.Offset && e.Len <= f.size {
				w.implied = ""
				return operand{text: f.text, kind: f.kind, size: int(f.size)}
			}
		}
	}
	if e.Base == expr.PayloadBaseLLHeader && e.Offset == 6 && e.Len == 6 {
		return operand{text: "ether saddr", kind: "ether_addr"}
	}
	bases := map[expr.PayloadBase]string{expr.PayloadBaseLLHeader: "ll", expr.PayloadBaseNetworkHeader: "nh", expr.PayloadBaseTransportHeader: "th"}
	return operand{text: fmt.Sprintf("@%s,%d,%d", bases[e.Base], e.Offset*8, e.Len*8)}
}

func (w *ruleWriter) ct(e *expr.Ct) {
	direction := dataText("ct_dir", []byte{byte(e.Direction)})
	switch e.Key {
	case expr.CtKeyDIRECTION:
		w.load(operand{text: "ct direction", kind: "ct_dir"})
	case expr.CtKeyMARK:
		w.load(operand{text: "ct mark", kind: "mark"})
	case expr.CtKeySTATE:
		w.load(operand{text: "ct state", kind: "ct_state"})
	case expr.CtKeySTATUS:
		w.load(operand{text: "ct status", kind: "ct_status"})
	case expr.CtKeySRCIP:
		w.family = unix.NFPROTO_IPV4
		w.load(operand{text: "ct " + direction + " ip saddr", kind: "ipv4_addr"})
	case expr.CtKeySRCIP6:
		w.family = unix.NFPROTO_IPV6
		w.load(operand{text: "ct " + direction + " ip6 saddr", kind: "ipv6_addr"})
	case expr.CtKeyDSTIP:
		w.family = unix.NFPROTO_IPV4
		w.load(operand{text: "ct " + direction + " ip daddr", kind: "ipv4_addr"})
	case expr.CtKeyDSTIP6:
		w.family = unix.NFPROTO_IPV6
		w.load(operand{text: "ct " + direction + " ip6 daddr", kind: "ipv6_addr"})
	default:
		w.load(operand{text: fmt.Sprintf("[ct %d]", e.Key)})
	}
}

// bitwise is (x & mask) ^ xor; where the two have no bit in common that is an or.
func (w *ruleWriter) bitwise(e *expr.Bitwise) {
	if len(w.operands) == 0 {
		w.load(w.kept)
	}
	o := &w.operands[len(w.operands)-1]
	if e.DestRegister != e.SourceRegister {
		w.kept = *o
	}
	if len(e.Mask) == 1 && len(e.Xor) == 1 && e.Xor[0] == 0 {
		o.text += fmt.Sprintf(" & %#02x", e.Mask[0])
		return
	}
	if len(e.Mask) != 4 || len(e.Xor) != 4 {
		w.say("[bitwise]")
		return
	}
	if names := bitNames(o.kind, binary.NativeEndian.Uint32(e.Mask)); names != "" {
		o.text += " " + names // what is compared with 0 behind it is said by that
		return
	}
	mask, xor := binary.NativeEndian.Uint32(e.Mask), binary.NativeEndian.Uint32(e.Xor)
	if mask != ^xor {
		o.text += fmt.Sprintf(" & 0x%08x", mask)
	}
	switch {
	case xor == 0:
	case xor&mask == 0:
		o.text += fmt.Sprintf(" | 0x%08x", xor)
	default:
		o.text += fmt.Sprintf(" ^ 0x%08x", xor)
	}
}

func (w *ruleWriter) compare(e *expr.Cmp) {
	o := w.use()
	if len(ctBits[o.kind]) > 0 && e.Op == expr.CmpOpNeq {
		w.say(o.text)
		return
	}
	equal := e.Op == expr.CmpOpEq
	switch {
	case equal && o.kind == "nf_proto" && len(e.Data) == 1:
		w.family = e.Data[0]
	case equal && o.kind == "inet_proto" && len(e.Data) == 1:
		w.l4 = e.Data[0]
	}
	operators := map[expr.CmpOp]string{expr.CmpOpEq: "", expr.CmpOpNeq: " !=", expr.CmpOpLt: " <", expr.CmpOpLte: " <=", expr.CmpOpGt: " >", expr.CmpOpGte: " >="}
	operator := operators[e.Op]
	if equal && strings.ContainsAny(o.text, "&|") {
		operator = " =="
	}
	value := dataText(o.kind, e.Data)
	if o.size > len(e.Data) {
		value = prefixOf(o.size, e.Data)
	}
	text := o.text + operator + " " + value
	if equal && (o.kind == "nf_proto" || o.kind == "inet_proto") {
		w.flushImplied()
		w.implied = text
		return
	}
	w.say(text)
}

func (w *ruleWriter) lookup(e *expr.Lookup) {
	o := w.use()
	set, ok := w.anonymous[e.SetName]
	if !ok {
		set = "@" + e.SetName
	}
	switch {
	case e.IsDestRegSet && e.DestRegister == unix.NFT_REG_VERDICT:
		w.say(o.text, "vmap", set)
	case e.IsDestRegSet:
		w.load(operand{text: o.text + " map " + set})
	case e.Invert:
		w.say(o.text, "!=", set)
	default:
		w.say(o.text, set)
	}
}

func (w *ruleWriter) nat(e *expr.NAT) {
	kind, to, addr := "snat", "ip to", "ipv4_addr"
	if e.Type == expr.NATTypeDestNAT {
		kind = "dnat"
	}
	if e.Family == unix.NFPROTO_IPV6 {
		to, addr = "ip6 to", "ipv6_addr"
	}
	w.say(kind, to, w.constant(addr))
	if e.FullyRandom {
		w.say("fully-random")
	}
}

func verdictText(v expr.Verdict) string {
	switch v.Kind {
	case expr.VerdictReturn:
		return "return"
	case expr.VerdictGoto:
		return "goto " + v.Chain
	case expr.VerdictJump:
		return "jump " + v.Chain
	case expr.VerdictDrop:
		return "drop"
	case expr.VerdictAccept:
		return "accept"
	case expr.VerdictContinue:
		return "continue"
	}
	return fmt.Sprintf("[verdict %d]", v.Kind)
}

// ctBit is a bit of conntrack's that has a name.
type ctBit struct {
	bit  uint32
	name string
}

// ctBits are those of each type, in nft's order.
var ctBits = map[string][]ctBit{
	"ct_state": {
		{expr.CtStateBitINVALID, "invalid"}, {expr.CtStateBitESTABLISHED, "established"}, {expr.CtStateBitRELATED, "related"},
		{expr.CtStateBitNEW, "new"}, {expr.CtStateBitUNTRACKED, "untracked"},
	},
	"ct_status": {{1 << 4, "snat"}}, // IPS_SRC_NAT of linux/netfilter/nf_conntrack_common.h
}

// bitNames names all bits of a mask; empty where one has no name.
func bitNames(kind string, mask uint32) string {
	var names []string
	for _, b := range ctBits[kind] {
		if mask&b.bit != 0 {
			names, mask = append(names, b.name), mask&^b.bit
		}
	}
	if mask != 0 {
		return ""
	}
	return strings.Join(names, ",")
}
