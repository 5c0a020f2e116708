package egress

import (
	"fmt"
	"net/netip"
)

// Node is what the kernel says of the links that a request may mean, and
// of every address that stands on the node.
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

// Carries reports whether pods can leave by the link now. While they cannot, their packets are refused.
func (l Link) Carries() bool { return l.Up && l.Carrier && l.Unfit == "" }

// LinkAddress is an address that stands on a link.
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
	// Ours: egress-ip put it there, so it is not the link's own.
	Ours bool
}

// The kernel's own tables, RT_TABLE_*.
const (
	DefaultTable = 253
	MainTable    = 254
	LocalTable   = 255
)

// Link returns the link with this ifindex.
func (n Node) Link(index int) (Link, bool) {
	for _, l := range n.Links {
		if l.Index == index {
			return l, true
		}
	}
	return Link{}, false
}

func (n Node) linkNamed(name string) (Link, bool) {
	for _, l := range n.Links {
		if l.Name == name {
			return l, true
		}
	}
	return Link{}, false
}

// Address is an egress address that egress-ip has put on a link, as /32 or /128.
type Address struct {
	Link    int // ifindex
	Address netip.Addr
}

// String gives the address as `ip address` prints it, with the link behind.
func (a Address) String() string { return a.Named(Unnamed) }

// Named is String with the link's name.
func (a Address) Named(name LinkName) string {
	return fmt.Sprintf("%s on %s", Host(a.Address), name(a.Link))
}
