package kernel

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"strings"

	"github.com/egress-ip/egress-ip/pkg/egress"
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// toSetElement returns an element as nf_tables takes it; one of a cluster set is
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
	family := egress.IPv4
	if strings.HasSuffix(set, "6") {
		family = egress.IPv6
	}
	size := len(family.Default().Addr().AsSlice())
	if len(s.Key) < size {
		return e
	}
	first, _ := netip.AddrFromSlice(s.Key[:size])
	behind := s.Key[size:]
	switch set {
	case family.SNAT():
		e.Address, _ = netip.AddrFromSlice(s.Val)
	case family.Out(), family.Back(), family.Guard(), family.Arrived():
		e.Chain = gotoChain(s.Val)
	}
	if set == family.Exit() || set == family.Arrived() || e.Chain == egress.Forged {
		e.Address = first
	} else {
		e.Pod = first
	}
	switch {
	case set == family.Bridged() && len(behind) >= macLength:
		e.MAC = net.HardwareAddr(behind[:macLength]).String()
	case len(behind) == 4:
		e.Link = int(binary.NativeEndian.Uint32(behind))
	}
	return e
}

// gotoChain reads where a verdict goes: what the library gives of a verdict is its
// attributes.
func gotoChain(verdict []byte) string {
	attributes, err := nl.ParseRouteAttr(verdict)
	if err != nil {
		return ""
	}
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
	if errors.Is(err, unix.ENOENT) || err == nil && len(found) == 0 {
		return egress.Element{}, false, nil
	}
	if err != nil {
		return egress.Element{}, false, err
	}
	return fromSetElement(e.Set, found[0]), true, nil
}

// elements reads all elements of a set, and what those count of each pod; a set that does
// not exist has none.
func (k *Kernel) elements(set string, sent map[netip.Addr]Counter) ([]egress.Element, error) {
	found, err := k.nft.GetSetElements(setNamed(set))
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if isCluster(set) {
		return fromCluster(set, found), nil
	}
	all := make([]egress.Element, 0, len(found))
	for _, s := range found {
		e := fromSetElement(set, s)
		all = append(all, e)
		if s.Counter != nil && sent != nil {
			sent[e.Pod] = Counter{s.Counter.Packets, s.Counter.Bytes}
		}
	}
	return all, nil
}

// addElements adds elements of one set.
func addElements(tx *nftables.Conn, set string, elements ...egress.Element) error {
	if len(elements) == 0 {
		return nil
	}
	all := make([]nftables.SetElement, 0, len(elements))
	for _, e := range elements {
		all = append(all, toSetElement(e))
	}
	return tx.SetAddElements(setNamed(set), all)
}

// deleteElements deletes elements of one set by their keys.
func deleteElements(tx *nftables.Conn, set string, elements ...egress.Element) error {
	if len(elements) == 0 {
		return nil
	}
	keys := make([]nftables.SetElement, 0, len(elements))
	for _, e := range elements {
		keys = append(keys, nftables.SetElement{Key: key(e)})
	}
	return tx.SetDeleteElements(setNamed(set), keys)
}
