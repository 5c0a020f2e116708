package kernel

import (
	"bytes"
	"errors"
	"net/netip"
	"reflect"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// An nf_tables expression reads and writes 4-byte registers. NFT_REG_1 to 4 name
// them by four, NFT_REG32_00 (8) and up one by one; a concatenation of an
// address and a link's name needs the second of them to begin behind the first.
const (
	reg1         = 1
	regBehindIP4 = 9 // NFT_REG32_01
	regBehindIP6 = 2 // NFT_REG_2, which is NFT_REG32_04
)

// ifNameKey is a link's name as nf_tables compares it: 16 bytes, NUL-padded.
func ifNameKey(name string) []byte {
	key := make([]byte, 16)
	copy(key, name)
	return key
}

// protocol is `meta nfproto ipv4` or ipv6: in an inet table both families pass.
func protocol(nfproto byte) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: reg1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg1, Data: []byte{nfproto}},
	}
}

// address loads the source or destination address of a packet.
func address(offset, length uint32) *expr.Payload {
	return &expr.Payload{DestRegister: reg1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: length}
}

// Where the addresses stand in the headers (RFC 791, RFC 8200).
func ip4Source() *expr.Payload { return address(12, 4) }
func ip4Dest() *expr.Payload   { return address(16, 4) }
func ip6Source() *expr.Payload { return address(8, 16) }
func ip6Dest() *expr.Payload   { return address(24, 16) }

func equals(data []byte) *expr.Cmp {
	return &expr.Cmp{Op: expr.CmpOpEq, Register: reg1, Data: data}
}

func verdict(kind expr.VerdictKind) *expr.Verdict { return &expr.Verdict{Kind: kind} }

// sameRules reports whether a chain has exactly these rules.
func sameRules(want [][]expr.Any, have []*nftables.Rule) bool {
	return slices.EqualFunc(want, have, func(w []expr.Any, h *nftables.Rule) bool { return reflect.DeepEqual(w, h.Exprs) })
}

// rulesOf reads the rules of a chain; a chain that is not there has none.
func (k *Kernel) rulesOf(table *nftables.Table, chain string) ([]*nftables.Rule, error) {
	rules, err := k.nft.GetRules(table, &nftables.Chain{Name: chain, Table: table})
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	return rules, err
}

// setRules makes a chain's rules exactly these, in the batch under way.
func (k *Kernel) setRules(chain *nftables.Chain, rules [][]expr.Any) {
	k.nft.FlushChain(chain)
	for _, exprs := range rules {
		k.nft.AddRule(&nftables.Rule{Table: chain.Table, Chain: chain, Exprs: exprs})
	}
}

// elementsOf turns prefixes into the elements of an interval set: each its first
// address, and the one behind its last as an end. A prefix inside another is
// left out: nf_tables takes no overlaps.
func elementsOf(prefixes []netip.Prefix) []nftables.SetElement {
	var elements []nftables.SetElement
	var last netip.Prefix
	for _, p := range slices.SortedFunc(slices.Values(prefixes), netip.Prefix.Compare) {
		if last.IsValid() && last.Overlaps(p) {
			continue
		}
		last = p
		elements = append(elements, nftables.SetElement{Key: p.Addr().AsSlice(), IntervalOpen: !behind(p).IsValid()})
		if end := behind(p); end.IsValid() {
			elements = append(elements, nftables.SetElement{Key: end.AsSlice(), IntervalEnd: true})
		}
	}
	return elements
}

// behind returns the address after a prefix's last; zero after the very last.
func behind(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for bit := p.Bits(); bit < len(b)*8; bit++ {
		b[bit/8] |= 0x80 >> (bit % 8)
	}
	last, _ := netip.AddrFromSlice(b)
	return last.Next()
}

func sameElements(a, b []nftables.SetElement) bool {
	byKey := func(x, y nftables.SetElement) int {
		if c := bytes.Compare(x.Key, y.Key); c != 0 || x.IntervalEnd == y.IntervalEnd {
			return c
		}
		if x.IntervalEnd {
			return -1
		}
		return 1
	}
	return slices.EqualFunc(slices.SortedFunc(slices.Values(a), byKey), slices.SortedFunc(slices.Values(b), byKey),
		func(x, y nftables.SetElement) bool { return byKey(x, y) == 0 })
}

// set describes a set or map; big-endian keys make nft print addresses as such.
func set(table *nftables.Table, name string, key nftables.SetDatatype) *nftables.Set {
	return &nftables.Set{Table: table, Name: name, KeyType: key, KeyByteOrder: binaryutil.BigEndian}
}

// sameValue reports whether two elements of a map lead to the same and have the
// same comment; what is read of a verdict is its attributes, in Val.
func sameValue(want, have nftables.SetElement) bool {
	if want.Comment != have.Comment {
		return false
	}
	if want.VerdictData == nil {
		return bytes.Equal(want.Val, have.Val)
	}
	attributes, err := nl.ParseRouteAttr(have.Val)
	if err != nil {
		return false
	}
	chain := ""
	for _, a := range attributes {
		if a.Attr.Type == unix.NFTA_VERDICT_CHAIN {
			chain = nl.BytesToString(a.Value)
		}
	}
	return chain == want.VerdictData.Chain
}
