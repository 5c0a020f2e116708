package egress

import (
	"net/netip"
	"slices"
)

// Outside returns an address that stands for the world: in none of these networks.
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
