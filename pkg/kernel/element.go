package kernel

import (
	"bytes"
	"errors"
	"net/netip"
	"slices"
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
	case e.Address.IsValid():
		s.Val = e.Address.AsSlice()
	}
	return s
}

func key(e egress.Element) []byte {
	switch {
	case e.Set == egress.Unmarked:
		return native(0)
	case e.Link != "":
		return slices.Concat(e.Pod.AsSlice(), ifNameKey(e.Link))
	default:
		return e.Pod.AsSlice()
	}
}

// fromSetElement is toSetElement the other way. What egress-ip never writes comes
// back as an element that equals none of ours.
func fromSetElement(set string, s nftables.SetElement) egress.Element {
	e := egress.Element{Set: set, Owner: s.Comment}
	if set == egress.Unmarked {
		e.Chain = gotoChain(s.Val)
		return e
	}
	size := 4
	if strings.HasSuffix(set, "6") {
		size = 16
	}
	if len(s.Key) < size {
		return e
	}
	e.Pod, _ = netip.AddrFromSlice(s.Key[:size])
	if set == egress.IPv4.Sent() || set == egress.IPv6.Sent() {
		return e
	}
	if set != egress.IPv4.SNAT() && set != egress.IPv6.SNAT() {
		e.Chain = gotoChain(s.Val)
		return e
	}
	e.Link = string(bytes.TrimRight(s.Key[size:], "\x00"))
	e.Address, _ = netip.AddrFromSlice(s.Val)
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

// elements reads all elements of a set; a set that is not there has none.
func (k *Kernel) elements(set string) ([]egress.Element, error) {
	found, err := k.nft.GetSetElements(setNamed(set))
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if set == egress.IPv4.Cluster() || set == egress.IPv6.Cluster() {
		return fromCluster(set, found), nil
	}
	all := make([]egress.Element, 0, len(found))
	for _, s := range found {
		all = append(all, fromSetElement(set, s))
	}
	return all, nil
}

// setElement writes one element, in the batch under way. Adding an element that
// is there keeps its comment, or, with another value, fails: so it goes first.
func (k *Kernel) setElement(e egress.Element) error {
	have, there, err := k.element(e)
	if err != nil || there && have == e {
		return err
	}
	if there {
		if err := k.deleteElements(e.Set, e); err != nil {
			return err
		}
	}
	return k.addElements(e.Set, e)
}

// addElements adds elements of one set, in the batch under way.
func (k *Kernel) addElements(set string, elements ...egress.Element) error {
	if len(elements) == 0 {
		return nil
	}
	all := make([]nftables.SetElement, 0, len(elements))
	for _, e := range elements {
		all = append(all, toSetElement(e))
	}
	return k.nft.SetAddElements(setNamed(set), all)
}

// deleteElements deletes elements of one set by their keys, in the batch under way.
func (k *Kernel) deleteElements(set string, elements ...egress.Element) error {
	if len(elements) == 0 {
		return nil
	}
	keys := make([]nftables.SetElement, 0, len(elements))
	for _, e := range elements {
		keys = append(keys, nftables.SetElement{Key: key(e)})
	}
	return k.nft.SetDeleteElements(setNamed(set), keys)
}
