package kernel

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	"github.com/egress-ip/egress-ip/pkg/egress"
	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// ErrChanged says that somebody has changed nf_tables between a read and the write that
// followed from it. Nothing has been written.
var ErrChanged = errors.New("somebody else has changed it meanwhile")

// transaction writes to nf_tables what f queues, all of it or nothing. f may read by k,
// whose socket is another: what is queued when a read fails is never sent, neither now nor
// with what somebody else sends. The error may be [ErrChanged].
func (k *Kernel) transaction(f func(tx *nftables.Conn) error) error {
	tx, err := k.openNFT(withRoom())
	if err != nil {
		return err
	}
	if err := f(tx); err != nil {
		return err
	}
	err = tx.Flush()
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("%w: %w", ErrChanged, err)
	}
	return err
}

// consistent repeats what reads until no transaction of anybody's has come in between, and
// returns the number of the last one before. The kernel goes on with a dump from where it
// was, whatever has moved meanwhile, and only flags it (NLM_F_DUMP_INTR, which the library
// does not look at); and one dump may be of before and the next of after.
func (k *Kernel) consistent(read func() error) (generation uint32, err error) {
	const tries = 16
	before, err := k.generation()
	for range tries {
		if err == nil {
			err = read()
		}
		if err != nil {
			return 0, err
		}
		if generation, err = k.generation(); err == nil && generation == before {
			return generation, nil
		}
		before = generation
	}
	writer := "an unknown process"
	if gen, err := k.nft.GetGen(); err == nil {
		writer = fmt.Sprintf("%s (pid %d)", gen.ProcComm, gen.ProcPID)
	}
	return 0, fmt.Errorf("nf_tables has changed during each of %d attempts to read it, last by %s: %w", tries, writer, unix.EBUSY)
}

// generation returns the number of the last transaction of anybody's.
func (k *Kernel) generation() (uint32, error) {
	gen, err := k.nft.GetGen()
	if err != nil {
		return 0, fmt.Errorf("read the generation of nf_tables: %w", err)
	}
	return gen.ID, nil
}

// exists tells that something does not exist from that it cannot be read.
func exists(err error) (bool, error) {
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	return err == nil, err
}

func (k *Kernel) hasTable(table *nftables.Table) (bool, error) {
	_, err := k.nft.ListTableOfFamily(table.Name, table.Family)
	return exists(err)
}

// deleteTable deletes a table, if it exists: adding what exists is no error.
func deleteTable(tx *nftables.Conn, table *nftables.Table) {
	tx.AddTable(table)
	tx.DelTable(table)
}

// namesIn returns the names of a table's chains and sets.
func (k *Kernel) namesIn(table *nftables.Table) (names []string, err error) {
	chains, err := k.nft.ListChainsOfTableFamily(table.Family)
	if err != nil {
		return nil, fmt.Errorf("read chains: %w", k.nftError(err))
	}
	for _, c := range chains {
		if c.Table.Name == table.Name {
			names = append(names, c.Name)
		}
	}
	sets, err := k.nft.GetSets(table)
	if _, err = exists(err); err != nil {
		return nil, fmt.Errorf("read the sets of table %s: %w", table.Name, k.nftError(err))
	}
	for _, s := range sets {
		names = append(names, s.Name)
	}
	return names, nil
}

// setRules makes a chain's rules exactly these.
func setRules(tx *nftables.Conn, chain *nftables.Chain, rules [][]expr.Any) {
	tx.FlushChain(chain)
	for _, r := range rules {
		tx.AddRule(&nftables.Rule{Table: chain.Table, Chain: chain, Exprs: r})
	}
}

// rulesIn reads the rules of a chain; one that does not exist has none.
func (k *Kernel) rulesIn(chain *nftables.Chain) ([]*nftables.Rule, error) {
	rules, err := k.nft.GetRules(chain.Table, chain)
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	return rules, err
}

// sameRules reports whether a chain has exactly these rules, whatever they have counted.
func sameRules(want [][]expr.Any, have []*nftables.Rule) bool {
	return slices.EqualFunc(want, have, func(w []expr.Any, h *nftables.Rule) bool {
		return slices.EqualFunc(w, h.Exprs, func(a, b expr.Any) bool {
			_, counts := a.(*expr.Counter)
			_, counted := b.(*expr.Counter)
			return counts && counted || reflect.DeepEqual(a, b)
		})
	})
}

// isHooked reports whether packets come to a chain as they should.
func (k *Kernel) isHooked(want *nftables.Chain) (bool, error) {
	have, err := k.nft.ListChain(want.Table, want.Name)
	if ok, err := exists(err); !ok {
		return false, err
	}
	return sameHook(want, have), nil
}

// sameHook reports whether packets come to a chain from where, when and with what
// policy they do to the one that is wanted.
func sameHook(want, have *nftables.Chain) bool {
	if want.Hooknum == nil || have.Hooknum == nil {
		return want.Hooknum == have.Hooknum
	}
	return *want.Hooknum == *have.Hooknum && have.Priority != nil && *want.Priority == *have.Priority &&
		want.Type == have.Type && have.Policy != nil && *have.Policy == nftables.ChainPolicyAccept
}

// inTable puts sets into a table. Big-endian keys make nft print addresses as such; marks and
// links are in the host's order.
func inTable(table *nftables.Table, sets []*nftables.Set) []*nftables.Set {
	for _, s := range sets {
		s.Table = table
		if s.KeyByteOrder = binaryutil.BigEndian; s.KeyType == nftables.TypeMark || s.KeyType == nftables.TypeIFIndex {
			s.KeyByteOrder = binaryutil.NativeEndian
		}
	}
	return sets
}

// toSetElement returns an element as nf_tables takes it; one of networks is
// an interval, see fromCluster.
func toSetElement(e egress.Element) nftables.SetElement {
	s := nftables.SetElement{Key: key(e), Comment: e.Owner}
	switch {
	case e.Chain != "":
		s.VerdictData = &expr.Verdict{Kind: expr.VerdictGoto, Chain: e.Chain}
	case e.Pod.IsValid() && e.Address.IsValid():
		s.Val = e.Address.AsSlice()
	}
	if e.Counted {
		s.Counter = &expr.Counter{}
	}
	return s
}

// macLength is how long a MAC address is in a key: a register is of 4 bytes.
const macLength, paddedMAC = 6, 8

func key(e egress.Element) []byte {
	if e.Set == egress.UnmarkedMap {
		return native(0)
	}
	first := e.Pod
	if !first.IsValid() {
		first = e.Address
	}
	key := first.AsSlice()
	if e.Link != 0 {
		key = append(key, native(uint32(e.Link))...)
	}
	if mac, err := net.ParseMAC(e.MAC); err == nil {
		key = append(append(key, mac...), make([]byte, paddedMAC-len(mac))...)
	}
	return key
}

// fromSetElement is toSetElement the other way. What egress-ip never writes comes
// back as an element that equals none of ours.
func fromSetElement(set string, s nftables.SetElement) egress.Element {
	e := egress.Element{Set: set, Owner: s.Comment, Counted: s.Counter != nil}
	if set == egress.UnmarkedMap {
		e.Chain = gotoChain(s.Val)
		return e
	}
	if set == egress.LinkSet && len(s.Key) == 4 {
		e.Link = int(binary.NativeEndian.Uint32(s.Key))
		return e
	}
	f := ip4
	if strings.HasSuffix(set, "6") {
		f = ip6
	}
	if len(s.Key) < int(f.size) {
		return e
	}
	first, _ := netip.AddrFromSlice(s.Key[:f.size])
	behind := s.Key[f.size:]
	switch set {
	case f.SNAT():
		e.Address, _ = netip.AddrFromSlice(s.Val)
	case f.Out(), f.Back(), f.Guard(), f.Arrived():
		e.Chain = gotoChain(s.Val)
	}
	if set == f.Exit() || set == f.Arrived() || e.Chain == egress.Forged {
		e.Address = first
	} else {
		e.Pod = first
	}
	switch {
	case set == f.Bridged() && len(behind) >= macLength:
		e.MAC = net.HardwareAddr(behind[:macLength]).String()
	case len(behind) == 4:
		e.Link = int(binary.NativeEndian.Uint32(behind))
	}
	return e
}

// gotoChain reads where a verdict goes: what the library gives of a verdict is its
// attributes.
func gotoChain(verdict []byte) string {
	attributes, _ := nl.ParseRouteAttr(verdict)
	for _, a := range attributes {
		if a.Attr.Type == unix.NFTA_VERDICT_CHAIN {
			return nl.BytesToString(a.Value)
		}
	}
	return ""
}

// element reads the element with this one's key, whatever its value.
func (k *Kernel) element(e egress.Element) (egress.Element, bool, error) {
	found, err := k.nft.FindSetElements(setNamed(e.Set), []nftables.SetElement{{Key: key(e)}})
	if ok, err := exists(err); !ok || len(found) == 0 {
		return egress.Element{}, false, err
	}
	return fromSetElement(e.Set, found[0]), true, nil
}

// elements reads all elements of a set, and what those count of each pod; a set that does
// not exist has none.
func (k *Kernel) elements(name string, sent map[netip.Addr]Counter) ([]egress.Element, error) {
	set := setNamed(name)
	found, err := k.nft.GetSetElements(set)
	if ok, err := exists(err); !ok {
		return nil, err
	}
	if set.Interval {
		return fromCluster(name, found), nil
	}
	all := make([]egress.Element, 0, len(found))
	for _, s := range found {
		e := fromSetElement(name, s)
		all = append(all, e)
		if s.Counter != nil && sent != nil {
			sent[e.Pod] = Counter{s.Counter.Packets, s.Counter.Bytes}
		}
	}
	return all, nil
}

// addElements adds, of these elements, those of the set.
func addElements(tx *nftables.Conn, set *nftables.Set, elements []egress.Element) error {
	var add []nftables.SetElement
	for _, e := range elements {
		if e.Set == set.Name {
			add = append(add, toSetElement(e))
		}
	}
	if len(add) == 0 {
		return nil
	}
	return tx.SetAddElements(set, add)
}

// deleteElements deletes, of these elements, those of the set, by their keys.
func deleteElements(tx *nftables.Conn, set *nftables.Set, elements []egress.Element) error {
	var del []nftables.SetElement
	for _, e := range elements {
		if e.Set == set.Name {
			del = append(del, nftables.SetElement{Key: key(e)})
		}
	}
	if len(del) == 0 {
		return nil
	}
	return tx.SetDeleteElements(set, del)
}

// replaceNetworks makes a set of networks those that are the set's.
func replaceNetworks(tx *nftables.Conn, set *nftables.Set, elements []egress.Element) error {
	tx.FlushSet(set)
	return tx.SetAddElements(set, intervals(only(elements, func(e egress.Element) bool { return e.Set == set.Name })))
}

// intervals turns networks that do not overlap into what an interval set holds:
// the first address of each, and the one behind its last as an end.
func intervals(elements []egress.Element) []nftables.SetElement {
	var all []nftables.SetElement
	for _, e := range elements {
		end := behind(e.Net)
		all = append(all, nftables.SetElement{Key: e.Net.Addr().AsSlice(), IntervalOpen: !end.IsValid()})
		if end.IsValid() {
			all = append(all, nftables.SetElement{Key: end.AsSlice(), IntervalEnd: true})
		}
	}
	return all
}

// fromCluster is intervals the other way. An interval that is no network comes
// back as an element that equals none of ours.
func fromCluster(set string, found []nftables.SetElement) (elements []egress.Element) {
	slices.SortFunc(found, func(a, b nftables.SetElement) int {
		if c := bytes.Compare(a.Key, b.Key); c != 0 || a.IntervalEnd == b.IntervalEnd {
			return c
		}
		if a.IntervalEnd { // of the network before the one that begins here
			return -1
		}
		return 1
	})
	for i, s := range found {
		if s.IntervalEnd {
			continue
		}
		var end netip.Addr
		if i+1 < len(found) {
			end, _ = netip.AddrFromSlice(found[i+1].Key)
		}
		first, _ := netip.AddrFromSlice(s.Key)
		e := egress.Element{Set: set, Net: network(first, end)}
		if !e.Net.IsValid() {
			e.Pod = first
		}
		elements = append(elements, e)
	}
	return elements
}

// network returns the prefix from first to before end; zero where that is none.
func network(first, end netip.Addr) netip.Prefix {
	for bits := 0; bits <= first.BitLen(); bits++ {
		if p := netip.PrefixFrom(first, bits); p.Masked().Addr() == first && behind(p) == end {
			return p
		}
	}
	return netip.Prefix{}
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
