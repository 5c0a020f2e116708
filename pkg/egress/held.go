package egress

import (
	"cmp"
	"net/netip"
	"slices"
)

// Held is what a second guard has to know, one that no flush of nftables takes away: with
// which addresses pods may leave by which links, and where they are: a pod that gets another one's address
// is elsewhere, and is none of these.
type Held struct {
	Mask    uint32    // the mark bits of egress-ip
	Pods    []Element // of [Family.Guard], with the link
	Places  []Element // of [Family.Pods] and [Family.Bridged]
	Exits   []Element // of [Family.Exit]
	Wrong   []Element // of [Family.Wrong]: what they must not leave with by their links
	Cluster []Element // of [Family.Cluster]: what is the cluster's for any link; none is inside another
}

// Wrong is the set of the addresses, each at a link, with which a link's pods do not leave.
func (f Family) Wrong() string { return "wrong" + f.digit() } // address . link

// Held returns that of a state, where links have these addresses, in an order that is always
// the same.
func (s State) Held(addresses []LinkAddress) Held {
	var h Held
	links := map[int]bool{}
	exits := map[Address]bool{}
	var cluster []netip.Prefix
	for _, c := range s.Chains {
		if c.Name == Exit {
			h.Mask = c.Mask
		}
	}
	for _, e := range s.Elements {
		if e.Net.IsValid() {
			cluster = append(cluster, e.Net)
			continue
		}
		switch family := FamilyOf(e.host()); e.Set {
		case family.Guard():
			if link, ok := LinkOf(e.Chain); ok {
				links[link] = true
				h.Pods = append(h.Pods, Element{Set: e.Set, Pod: e.Pod, Link: link})
				h.Wrong = append(h.Wrong, Element{Set: family.Wrong(), Address: e.Pod, Link: link})
			}
		case family.Pods(), family.Bridged():
			h.Places = append(h.Places, Element{Set: e.Set, Pod: e.Pod, Link: e.Link, MAC: e.MAC})
		case family.Exit():
			exits[Address{e.Link, e.Address}] = true
			h.Exits = append(h.Exits, e)
		}
	}
	for _, a := range addresses {
		if own := (Address{a.Index, a.Network.Addr()}); links[a.Index] && !exits[own] {
			h.Wrong = append(h.Wrong, Element{Set: FamilyOf(own.Address).Wrong(), Address: own.Address, Link: own.Link})
		}
	}
	for _, p := range Disjoint(cluster) {
		h.Cluster = append(h.Cluster, Element{Set: FamilyOf(p.Addr()).Cluster(), Net: p})
	}
	for _, all := range [][]Element{h.Pods, h.Places, h.Exits, h.Wrong} {
		slices.SortFunc(all, func(a, b Element) int { return cmp.Or(a.host().Compare(b.host()), cmp.Compare(a.Link, b.Link)) })
	}
	return h
}

// Equal reports whether nothing is to be written where the other has been.
func (h Held) Equal(other Held) bool {
	return h.Mask == other.Mask && slices.Equal(h.Pods, other.Pods) && slices.Equal(h.Places, other.Places) &&
		slices.Equal(h.Exits, other.Exits) && slices.Equal(h.Wrong, other.Wrong) && slices.Equal(h.Cluster, other.Cluster)
}

// host is the address in the element's key.
func (e Element) host() netip.Addr {
	if e.Pod.IsValid() {
		return e.Pod
	}
	return e.Address
}
