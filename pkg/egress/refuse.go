package egress

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/egress-ip/egress-ip/pkg/config"
)

func (s selection) checkAllowed(link Link, address netip.Addr) error {
	entries, namespaceListed := 0, false
	for _, l := range s.config.Links {
		if !l.Matches(link.Name) {
			continue
		}
		for _, allow := range l.Allow {
			entries++
			if !allow.MatchesNamespace(s.PodNamespace) {
				continue
			}
			namespaceListed = true
			if len(allow.Addresses) == 0 && s.isOwn(link, address) ||
				slices.ContainsFunc(allow.Addresses, func(p netip.Prefix) bool { return p.Contains(address) }) {
				return nil
			}
		}
	}
	namespace := fmt.Sprintf("the namespace %q", s.PodNamespace)
	if s.PodNamespace == "" {
		namespace = "a pod without a namespace"
	}
	switch {
	case entries == 0:
		return s.errorf("egress-ip's configuration allows nobody to use the link %s; add allow to its entry in links", link.Name)
	case !namespaceListed:
		return s.errorf("egress-ip's configuration does not allow %s to use the link %s; list it in allow[].namespaces", namespace, link.Name)
	}
	return s.errorf("egress-ip's configuration does not allow %s to use %s on the link %s; list it in allow[].addresses, or choose another", namespace, address, link.Name)
}

func (s selection) isOwn(link Link, address netip.Addr) bool {
	return slices.ContainsFunc(s.node.Addresses, func(a LinkAddress) bool {
		return a.Index == link.Index && a.Network.Addr() == address && !a.Ours
	})
}

// checkHost refuses what is no host of the link's network, and what another link has.
func (s selection) checkHost(link Link, address netip.Addr) error {
	for _, a := range s.node.Addresses {
		if a.Network.Addr() == address && a.Index != link.Index {
			name := Unnamed(a.Index) // no candidate: a loopback link
			if other, ok := s.node.Link(a.Index); ok {
				name = other.Name
			}
			return s.errorf("%s stands on another link of this node, %s; choose a free address", address, name)
		}
		if a.Index != link.Index || !a.Network.Contains(address) || a.Network.Bits() >= address.BitLen()-1 {
			continue
		}
		if address == a.Network.Masked().Addr() {
			return s.errorf("%s is the network address of %s; choose a host address", address, a.Network.Masked())
		}
		if address == broadcast(a.Network) {
			return s.errorf("%s is the broadcast address of %s; choose a host address", address, a.Network.Masked())
		}
	}
	return nil
}

// broadcast returns the last address of an IPv4 network; IPv6 has none.
func broadcast(p netip.Prefix) netip.Addr {
	if !p.Addr().Is4() {
		return netip.Addr{}
	}
	b := p.Addr().As4()
	for bit := p.Bits(); bit < 32; bit++ {
		b[bit/8] |= 0x80 >> (bit % 8)
	}
	return netip.AddrFrom4(b)
}

// CheckNextHops refuses an egress address that is a next hop of its link: with
// it on the node, the node would no longer reach the router.
func CheckNextHops(r config.Request, f Flow, routes []Route) error {
	if f.Address == f.Gateway || slices.ContainsFunc(routes, func(route Route) bool {
		return route.Link == f.Index && route.NextHop == f.Address
	}) {
		return selection{Request: r}.errorf("%s is a next hop of the link %s; choose a free address", f.Address, f.Link)
	}
	return nil
}
