package egress

import (
	"net/netip"
	"slices"

	"github.com/egress-ip/egress-ip/pkg/config"
)

// ownNetworks returns, for a pod that asks for a link's own address, the networks in
// which it may have it: what `allow` says of its namespace and the link, both address
// families whole where that is the link's own address.
func ownNetworks(r config.Request, c config.Config, link string) []netip.Prefix {
	var networks []netip.Prefix
	for _, l := range c.Links {
		if !l.Matches(link) {
			continue
		}
		for _, allow := range l.Allow {
			if !allow.MatchesNamespace(r.PodNamespace) {
				continue
			}
			if len(allow.Addresses) == 0 {
				return []netip.Prefix{IPv4.Default(), IPv6.Default()}
			}
			networks = append(networks, allow.Addresses...)
		}
	}
	return networks
}

// OwnNetworks returns what an attachment of this request is to have as its
// [Attachment.OwnNetworks].
func OwnNetworks(r config.Request, c config.Config, flows []Flow) []netip.Prefix {
	if len(r.Addresses) > 0 || len(flows) == 0 {
		return nil
	}
	return ownNetworks(r, c, flows[0].Link)
}

// Follow returns the attachments with the flows that leave with a link's own address
// on the one that it has today, and the flows, by their pod addresses, for which it has
// none. As long as a link has the address that a flow was given, the flow keeps it. A
// link that cannot send is left alone: IPv6 addresses vanish with it, and come back.
func Follow(attachments []Attachment, node Node) (followed []Attachment, without map[netip.Addr]bool) {
	ours := map[Address]bool{}
	for _, a := range attachments {
		for _, f := range a.Flows {
			ours[f.HostAddress()] = ours[f.HostAddress()] || f.OwnsAddress
		}
	}
	followed, without = slices.Clone(attachments), map[netip.Addr]bool{}
	for i, a := range attachments {
		if len(a.OwnNetworks) == 0 {
			continue
		}
		followed[i].Flows = slices.Clone(a.Flows)
		for j, f := range a.Flows {
			link, ok := node.Link(f.Index)
			if !ok || !link.Carries() || node.has(f.HostAddress()) {
				continue
			}
			own, ok := node.own(f.Index, f.Family(), ours)
			if ok && slices.ContainsFunc(a.OwnNetworks, func(n netip.Prefix) bool { return n.Contains(own) }) {
				followed[i].Flows[j].Address = own
			} else {
				without[f.Pod] = true
			}
		}
	}
	return followed, without
}

func (n Node) has(a Address) bool {
	return slices.ContainsFunc(n.Addresses, func(on LinkAddress) bool {
		return on.Index == a.Link && on.Network.Addr() == a.Address
	})
}

// own returns the address with which a link itself leaves, those of ours aside.
func (n Node) own(link int, f Family, ours map[Address]bool) (netip.Addr, bool) {
	for _, a := range n.Addresses {
		address := a.Network.Addr()
		if a.Index == link && FamilyOf(address) == f && a.Ordinary && !a.Ours && !ours[Address{link, address}] {
			return address, true
		}
	}
	return netip.Addr{}, false
}
