package kernel

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/egress-ip/egress-ip/pkg/egress"
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

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
