package egress

import (
	"fmt"
	"net/netip"
	"slices"
)

// Node is what the kernel says of the links that a request may mean, and
// of every address of the node.
type Node struct {
	Links     []Link
	Addresses []LinkAddress
	VRFs      VRFRules
}

// VRFRules are the priorities of the first rule of each address family that looks packets
// up in the table of the VRF by whose links they come (`lookup [l3mdev-table]`). 0: there is none.
type VRFRules struct{ IPv4, IPv6 uint32 }

// of returns the priority of the rule that answers from a link would meet; 0: none, as it is
// in no VRF.
func (v VRFRules) of(l Link, f Family) uint32 {
	switch {
	case !l.InVRF():
		return 0
	case f == IPv4:
		return v.IPv4
	}
	return v.IPv6
}

// Link is a network interface of the node.
type Link struct {
	Name    string
	Index   int
	Up      bool   // administratively
	Carrier bool   // and able to send
	Table   uint32 // where its routes are: main, or the table of the VRF that it is a slave of
	Unfit   string // why pods cannot leave by it, and what to do; empty: they can
}

// InVRF reports whether the link is a VRF's slave.
func (l Link) InVRF() bool { return l.Table != 0 && l.Table != MainTable }

// Carries reports whether pods can leave by the link now; otherwise their packets are refused.
// Without a carrier (no cable, a bond whose links are all down) the kernel keeps a link's
// routes, and what they send vanishes.
func (l Link) Carries() bool { return l.Up && l.Carrier && l.Unfit == "" }

// LinkName names the link with an ifindex.
type LinkName func(index int) string

// Unnamed is how iproute2 writes a link that does not exist.
func Unnamed(index int) string { return fmt.Sprintf("if%d", index) }

// LinkAddress is an address of a link.
type LinkAddress struct {
	Index int // of the link
	// Network holds the address and the length of the link's network.
	Network netip.Prefix
	// Ordinary: global, not deprecated, tentative, temporary or secondary: fit
	// to be what `link alone` leaves with.
	Ordinary bool
	// Unconfirmed: an IPv6 address of which it is not known yet, or known to be so, that
	// another host has it. The node does not answer for it.
	Unconfirmed bool
	// Ours: egress-ip added it, so it is not the link's own.
	Ours bool
}

// At returns the address without its network.
func (a LinkAddress) At() Address { return Address{a.Index, a.Network.Addr()} }

// Link returns the link with this ifindex.
func (n Node) Link(index int) (Link, bool) {
	return n.link(func(l Link) bool { return l.Index == index })
}

// LinkNamed returns the link with this name.
func (n Node) LinkNamed(name string) (Link, bool) {
	return n.link(func(l Link) bool { return l.Name == name })
}

func (n Node) link(is func(Link) bool) (Link, bool) {
	if i := slices.IndexFunc(n.Links, is); i >= 0 {
		return n.Links[i], true
	}
	return Link{}, false
}

func (n Node) has(at Address) bool {
	return slices.ContainsFunc(n.Addresses, func(a LinkAddress) bool { return a.At() == at })
}

// own returns the address with which a link itself leaves, those of ours aside.
func (n Node) own(link int, f Family, ours map[Address]bool) (netip.Addr, bool) {
	for _, a := range n.Addresses {
		address := a.Network.Addr()
		if a.Index == link && FamilyOf(address) == f && a.Ordinary && !a.Ours && !ours[a.At()] {
			return address, true
		}
	}
	return netip.Addr{}, false
}

// Address is an egress address that egress-ip has added to a link, as /32 or /128.
type Address struct {
	Link    int // ifindex
	Address netip.Addr
}

// String gives the address as `ip address` prints it, with the link behind.
func (a Address) String() string { return a.text(Unnamed) }

func (a Address) text(name LinkName) string {
	return fmt.Sprintf("%s on %s", Host(a.Address), name(a.Link))
}

// Relocate returns the attachments with their flows on the links of today. A link that has
// been renamed is the same link: its ifindex tells. One that was created again has another
// ifindex, and so another table; the next flow on it may have given it a mark already. It
// may be in a VRF by now, or in none.
// Flows of a link that does not exist stay as they are: their table stays closed.
func Relocate(attachments []Attachment, node Node) []Attachment {
	index, name := make(map[string]int, len(node.Links)), make(map[int]string, len(node.Links))
	for _, l := range node.Links {
		index[l.Name], name[l.Index] = l.Index, l.Name
	}
	current := map[int]Flow{}
	for _, f := range Flows(attachments...) {
		if name[f.Index] != "" {
			current[f.Index] = f
		}
	}
	moved := slices.Clone(attachments)
	for i := range moved {
		moved[i].Flows = slices.Clone(moved[i].Flows)
		for j := range moved[i].Flows {
			f := &moved[i].Flows[j]
			if renamed := name[f.Index]; renamed != "" {
				f.Link = renamed
			} else if now, exists := index[f.Link]; exists {
				f.Table += uint32(now) - uint32(f.Index)
				f.Index = now
				if other, ok := current[now]; ok {
					f.Table, f.Mark = other.Table, other.Mark
				}
			}
			if l, exists := node.Link(f.Index); exists {
				f.VRFRule = node.VRFs.of(l, f.Family())
			}
		}
	}
	return moved
}

// Follow gives the flows that leave with a link's own address the one that it has today, and
// returns those, by their pod addresses, for which it has none. As long as a link has the address
// that a flow was given, the flow keeps it. A link that cannot send is left alone: IPv6
// addresses vanish with it, and come back.
func Follow(attachments []Attachment, node Node) (without map[netip.Addr]bool) {
	ours := map[Address]bool{}
	for _, f := range Flows(attachments...) {
		ours[f.HostAddress()] = ours[f.HostAddress()] || f.OwnsAddress
	}
	without = map[netip.Addr]bool{}
	for _, a := range attachments {
		if len(a.OwnNetworks) == 0 {
			continue
		}
		for i, f := range a.Flows {
			link, ok := node.Link(f.Index)
			if !ok || !link.Carries() || node.has(f.HostAddress()) {
				continue
			}
			own, ok := node.own(f.Index, f.Family(), ours)
			if ok && slices.ContainsFunc(a.OwnNetworks, func(n netip.Prefix) bool { return n.Contains(own) }) {
				a.Flows[i].Address = own
			} else {
				without[f.Pod] = true
			}
		}
	}
	return without
}

// Uplinks returns the indexes of the links by which packets of annotated pods come from
// outside the cluster, or may: the egress links, those of the default route, and those
// with an address outside the cluster's networks. There the kernel has to look the way
// back of IPv4 packets up with their mark: a strict reverse path filter would find the
// egress link for a connection to an annotated pod that came in by another, and without a
// mark the look-up walks the list of source rules. On every other link the source of a
// packet is the cluster's own, for which there are rules before that list; and the marks
// that others give to the packets of plain pods, a transparent proxy's for one, must not
// count when the way back is looked up.
//
// Where the egress link is in a VRF, the links by which its pods' packets come are among
// them: the kernel looks the way back to a pod up as if it were to come from the egress link,
// and without the link's mark the rule for VRFs finds the VRF's table.
//
// Without configured cluster networks a rule asks main for the way to every source but
// those behind its default route.
func Uplinks(attachments []Attachment, addresses []LinkAddress, byDefault []int) []int {
	var (
		uplinks []int
		pods    []netip.Addr
		named   [][]netip.Prefix
	)
	for a, f := range Flows(attachments...) {
		if f.Family() != IPv4 {
			continue
		}
		uplinks, pods = append(uplinks, f.Index), append(pods, f.Pod)
		if f.VRFRule != 0 && f.In != 0 {
			uplinks = append(uplinks, f.In)
		}
		if c := a.clusterOf(IPv4); len(c) > 0 && (len(named) == 0 || !slices.Equal(c, named[len(named)-1])) {
			named = append(named, c)
		}
	}
	if len(pods) == 0 {
		return nil
	}
	uplinks = append(uplinks, byDefault...)
	for _, a := range addresses {
		address := a.Network.Addr()
		outside := func(cluster []netip.Prefix) bool {
			return !slices.ContainsFunc(cluster, func(c netip.Prefix) bool { return c.Contains(address) })
		}
		// The pods' own link is none, even where their network is not named.
		if address.Is4() && !address.IsLinkLocalUnicast() && slices.ContainsFunc(named, outside) && !slices.ContainsFunc(pods, a.Network.Contains) {
			uplinks = append(uplinks, a.Index)
		}
	}
	slices.Sort(uplinks)
	return slices.Compact(uplinks)
}

// Outside returns an address of the world: in none of these networks.
// It is for look-ups; nothing is sent there. Without one, all is in these networks.
func Outside(family Family, but []netip.Prefix) (netip.Addr, bool) {
	for i := range 256 {
		a := netip.AddrFrom4([4]byte{byte(8 + i), 8, 8, 8})
		if family == IPv6 {
			a = netip.AddrFrom16([16]byte{0x20 | byte(i)>>5, byte(i)<<3 | 1, 0x48, 0x60, 0x48, 0x60, 14: 0x88, 15: 0x88})
		}
		if a.IsGlobalUnicast() && !a.IsPrivate() && !slices.ContainsFunc(but, func(p netip.Prefix) bool { return p.Contains(a) }) {
			return a, true
		}
	}
	return netip.Addr{}, false
}

// IsSpecific reports whether a network is a part of the world, and not the half of it or more.
func IsSpecific(p netip.Prefix) bool { return p.IsValid() && p.Bits() >= shortestSpecific }
