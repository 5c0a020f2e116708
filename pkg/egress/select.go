package egress

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/egress-ip/egress-ip/pkg/config"
)

// Candidates says which links a request may mean: those that it or the
// configuration names, and the indexes of those whose network holds an address
// that it asks for, or, where it names no address and a link only by a glob, of
// all that have addresses. So the kernel is asked for a few links, however many
// pods' links a node has.
func Candidates(r config.Request, c config.Config, addresses []LinkAddress) (names []string, indexes []int) {
	if isName(r.Link) {
		names = []string{r.Link}
	} else {
		for _, l := range c.Links {
			if isName(l.Pattern) {
				names = append(names, l.Pattern)
			}
		}
	}
	for _, a := range addresses {
		if len(r.Addresses) == 0 {
			if !isName(r.Link) {
				indexes = append(indexes, a.Index)
			}
			continue
		}
		if slices.ContainsFunc(r.Addresses, a.Network.Contains) {
			indexes = append(indexes, a.Index)
		}
	}
	slices.Sort(indexes)
	return names, slices.Compact(indexes)
}

// isName reports whether a pattern can only mean one link.
func isName(pattern string) bool { return pattern != "" && !strings.ContainsAny(pattern, "*?[\\") }

// Select decides by which link, and with which address, each pod address leaves.
// Errors are for the pod's event: they name the annotation, its value and the remedy.
func Select(r config.Request, c config.Config, node Node) ([]Flow, error) {
	s := selection{r, c, node}
	if err := s.checkConfigured(); err != nil {
		return nil, err
	}
	if len(r.Addresses) == 0 {
		return s.byLink()
	}
	var flows []Flow
	for _, address := range r.Addresses {
		if !s.podHas(FamilyOf(address)) {
			continue // left alone: the other one applies, config.Parse has seen to that
		}
		link, err := s.linkFor(address)
		if err != nil {
			return nil, err
		}
		if err := s.checkAllowed(link, address); err != nil {
			return nil, err
		}
		if err := s.checkHost(link, address); err != nil {
			return nil, err
		}
		flows = append(flows, s.flows(link, address)...)
	}
	return flows, nil
}

type selection struct {
	config.Request
	config config.Config
	node   Node
}

// errorf blames the address annotation, or, without one, the link annotation.
func (s selection) errorf(format string, args ...any) error {
	problem := fmt.Sprintf(format, args...)
	if len(s.Addresses) > 0 {
		return s.AddressError(problem)
	}
	return s.LinkError(problem)
}

func (s selection) podHas(f Family) bool {
	return slices.ContainsFunc(s.PodAddresses, func(p netip.Addr) bool { return FamilyOf(p) == f })
}

func (s selection) checkConfigured() error {
	if len(s.config.Links) == 0 {
		return s.errorf("egress-ip's configuration has no links, so no pod may use any; add links with allow to the conflist")
	}
	if isName(s.Link) {
		link, there := s.node.LinkNamed(s.Link)
		if !there {
			return s.LinkError("there is no such link on this node; name one that is, or let the pod run where it is")
		}
		if err := s.checkFit(link); err != nil {
			return err
		}
		if !slices.ContainsFunc(s.config.Links, func(l config.Link) bool { return l.Matches(s.Link) }) {
			return s.LinkError("egress-ip's configuration does not list this link; add it to links in the conflist")
		}
	}
	return nil
}

// checkFit refuses a link by which nothing could leave, or no answer arrive.
func (s selection) checkFit(link Link) error {
	switch {
	case link.Unfit != "":
		return s.errorf("the link %s cannot carry egress: %s", link.Name, link.Unfit)
	case !link.Up:
		return s.errorf("the link %s is down; bring it up (ip link set %s up), or choose another", link.Name, link.Name)
	case !link.Carrier:
		return s.errorf("the link %s has no carrier; check its other end, or choose another", link.Name)
	}
	return nil
}

// linkFor finds the link whose network holds an address, among those that the
// annotation and the configuration admit.
func (s selection) linkFor(address netip.Addr) (Link, error) {
	for _, a := range s.node.Addresses {
		// Only a link that the pod may not mean makes it a foreign address.
		if a.Network.Addr() == address {
			if link, ok := s.node.Link(a.Index); ok && !s.admits(link) {
				return Link{}, s.errorf("%s is an address of the node's link %s, which egress must not take it from; choose a free address", address, link.Name)
			}
		}
	}
	longest := map[int]int{} // ifindex: prefix length of its network that holds the address
	for _, a := range s.node.Addresses {
		if a.Network.Contains(address) {
			longest[a.Index] = max(longest[a.Index], a.Network.Bits())
		}
	}
	var named, unnamed []Link
	for _, link := range s.node.Links {
		if _, holds := longest[link.Index]; !holds || !s.admits(link) {
			continue
		}
		if s.isNamed(link) {
			named = append(named, link)
		} else {
			unnamed = append(unnamed, link)
		}
	}
	found := named
	if len(found) == 0 {
		found = longestOnly(unnamed, longest)
	}
	switch len(found) {
	case 1:
		return found[0], s.checkFit(found[0])
	case 0:
		return Link{}, s.noLink(address)
	}
	return Link{}, s.errorf("the networks of %s all hold %s; name one: %s", names(found), address, s.LinkKey())
}

func (s selection) admits(link Link) bool {
	return (s.Link == "" || config.Glob(s.Link, link.Name)) &&
		slices.ContainsFunc(s.config.Links, func(l config.Link) bool { return l.Matches(link.Name) })
}

func (s selection) isNamed(link Link) bool {
	return s.Link != "" || slices.ContainsFunc(s.config.Links, func(l config.Link) bool {
		return l.Pattern != "" && l.Matches(link.Name)
	})
}

func longestOnly(links []Link, longest map[int]int) []Link {
	best := 0
	for _, l := range links {
		best = max(best, longest[l.Index])
	}
	return slices.DeleteFunc(links, func(l Link) bool { return longest[l.Index] < best })
}

// noLink says why no link holds an address, as closely as the node tells.
func (s selection) noLink(address netip.Addr) error {
	if link, ok := s.node.LinkNamed(s.Link); ok {
		return s.errorf("the network of the link %s does not hold %s, it has %s; choose an address of that network", link.Name, address, s.networks(link))
	}
	var saw []Link
	for _, l := range s.node.Links {
		if s.admits(l) {
			// IPv6 addresses vanish with a link that goes down, so that is said first.
			if err := s.checkFit(l); err != nil && s.isNamed(l) {
				return err
			}
			saw = append(saw, l)
		}
	}
	if len(saw) == 0 {
		return s.errorf("no link of this node that may carry egress has a network that holds %s; the configuration allows for %s; choose another address, or add the link that has it to links in the conflist", address, s.patterns())
	}
	var have []string
	for _, l := range saw {
		have = append(have, l.Name+" has "+s.networks(l))
	}
	return s.errorf("no link that may carry egress has a network that holds %s: %s; choose an address of such a network", address, strings.Join(have, ", "))
}

func (s selection) patterns() string {
	var patterns []string
	if s.Link != "" {
		patterns = append(patterns, fmt.Sprintf("%q (%s)", s.Link, s.LinkKey()))
	}
	for i, l := range s.config.Links {
		if l.Pattern == "" {
			patterns = append(patterns, "any link")
		} else {
			patterns = append(patterns, fmt.Sprintf("%q (links[%d].name)", l.Pattern, i))
		}
	}
	return strings.Join(patterns, ", ")
}

func (s selection) networks(link Link) string {
	var networks []string
	for _, a := range s.node.Addresses {
		if a.Index == link.Index && !a.Network.IsSingleIP() && !a.Network.Addr().IsLinkLocalUnicast() {
			networks = append(networks, a.Network.Masked().String())
		}
	}
	if len(networks) == 0 {
		return "no network"
	}
	return strings.Join(slices.Compact(networks), " and ")
}

// byLink serves the link annotation alone: the link's own address of every
// family that the pod has.
func (s selection) byLink() ([]Flow, error) {
	var found []Link
	for _, l := range s.node.Links {
		if s.admits(l) && len(s.own(l)) > 0 {
			found = append(found, l)
		}
	}
	if len(found) != 1 {
		if link, ok := s.node.LinkNamed(s.Link); ok {
			return nil, s.errorf("the link %s has no global address to leave with; name one: %s", link.Name, s.AddressKey())
		}
		if len(found) == 0 {
			return nil, s.errorf("no link of this node that has an address matches it and egress-ip's configuration, which allows for %s; name another, or add it to links in the conflist", s.patterns())
		}
		return nil, s.errorf("%s match it; name one of them", names(found))
	}
	link := found[0]
	if err := s.checkFit(link); err != nil {
		return nil, err
	}
	var flows []Flow
	for _, family := range Families {
		address, ok := s.own(link)[family]
		if !ok || !s.podHas(family) {
			continue
		}
		if err := s.checkAllowed(link, address); err != nil {
			return nil, err
		}
		flows = append(flows, s.flows(link, address)...)
	}
	if len(flows) == 0 {
		return nil, s.errorf("the link %s has no address of a family that the pod has; name one (%s), or choose another link", link.Name, s.AddressKey())
	}
	return flows, nil
}

// own returns the addresses that the link itself leaves with, one an address family.
func (s selection) own(link Link) map[Family]netip.Addr {
	own := map[Family]netip.Addr{}
	for _, f := range Families {
		if address, ok := s.node.own(link.Index, f, nil); ok {
			own[f] = address
		}
	}
	return own
}

func (s selection) flows(link Link, address netip.Addr) []Flow {
	f := Flow{
		Address: address,
		Link:    link.Name,
		Index:   link.Index,
		Table:   s.config.TableBase + uint32(link.Index),
		Gateway: s.gateway(link, address),
		OwnsAddress: !slices.ContainsFunc(s.node.Addresses, func(a LinkAddress) bool {
			return a.Network.Addr() == address && !a.Ours
		}),
	}
	var flows []Flow
	for _, pod := range s.PodAddresses {
		if pod.Is4() == address.Is4() {
			f.Pod = pod
			f.VRFRule = s.node.VRFs.of(link, FamilyOf(pod))
			flows = append(flows, f)
		}
	}
	return flows
}

func (s selection) gateway(link Link, address netip.Addr) netip.Addr {
	for _, l := range s.config.Links {
		if !l.Matches(link.Name) {
			continue
		}
		for _, g := range l.Gateways {
			if g.Is4() == address.Is4() {
				return g
			}
		}
	}
	return netip.Addr{}
}

func names(links []Link) string {
	var s []string
	for _, l := range links {
		s = append(s, l.Name)
	}
	return strings.Join(s, " and ")
}

// OwnNetworks returns what an attachment of this request is to have as its [Attachment.OwnNetworks]:
// the networks in which a pod that asks for a link's own address may have it, as `allow` says of its
// namespace and the link; both address families whole where that is the link's own address.
func OwnNetworks(r config.Request, c config.Config, flows []Flow) []netip.Prefix {
	if len(r.Addresses) > 0 || len(flows) == 0 {
		return nil
	}
	var networks []netip.Prefix
	for _, l := range c.Links {
		if !l.Matches(flows[0].Link) {
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
		return s.errorf("egress-ip's configuration allows no namespace to use the link %s; add allow to its entry in links", link.Name)
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
			return s.errorf("%s is an address of another link of this node, %s; choose a free address", address, name)
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
