package egress

import (
	"net/netip"
	"slices"
)

// State is what egress-ip has in a node's kernel, or is to have, the probe table
// aside: what is recorded asks for one, the kernel is read as one, and what is
// missing, or recorded nowhere, is the difference.
type State struct {
	Rules     []Rule
	Routes    []Route
	Addresses []Address
	Chains    []Chain
	Elements  []Element
}

// Facts are what a node has, as far as what should exist follows from it.
type Facts struct {
	Tables    []Table        // of the links that attachments leave by; a table that is not among them gets its closing route alone
	Cluster   []netip.Prefix // as the last ADD configured them
	Addresses []LinkAddress
	Without   map[netip.Addr]bool // pod addresses that have no address to leave with at the moment
}

// Desired returns what should exist for attachments, each thing that they share once, and
// each thing before what needs it.
func Desired(attachments []Attachment, facts Facts) State {
	const shared = 32
	flows := 2 * len(attachments) // one an address family
	s := State{Rules: make([]Rule, 0, flows+shared), Routes: make([]Route, 0, flows+shared), Elements: make([]Element, 0, elementsOfFlow*flows+shared)}
	var (
		known   = map[Rule][]netip.Prefix{} // by a link's rule: the cluster networks beside it
		throws  []Route                     // pods' own
		egress  []Element                   // what there is of links and of egress addresses
		cluster = ClusterElements(facts.Cluster)
		last    Attachment

		// What has been seen of what is shared.
		tables         = map[TableKey]bool{}
		owned, leaving = map[Address]bool{}, map[Address]bool{}
		arrived        = map[netip.Addr]bool{}
		links          = map[int]bool{}
		outs           = map[outKey]bool{}
	)
	arrive := func(a Address) {
		if !a.Address.IsLinkLocalUnicast() && first(arrived, a.Address) {
			egress = append(egress, arrivedElement(a))
		}
	}
	for a, f := range OwnFlows(attachments) {
		last = a
		if cluster, ok := known[a.LinkRule(f)]; !ok || !slices.Equal(cluster, a.ClusterCIDRs) {
			known[a.LinkRule(f)] = a.ClusterCIDRs
			s.Rules = append(s.Rules, Missing(a.SharedRules(f), s.Rules)...)
		}
		s.Rules = append(s.Rules, a.SourceRule(f))
		throws = append(throws, f.PodThrow())
		if first(tables, f.TableKey()) {
			s.Routes = append(s.Routes, facts.routes(a.Table(f))...)
		}
		if f.OwnsAddress && first(owned, f.HostAddress()) {
			s.Addresses = append(s.Addresses, f.HostAddress())
		}
		s.Elements = a.elements(f, facts.Without[f.Pod], s.Elements)
		if first(links, f.Index) {
			s.Chains = append(s.Chains, a.linkChains(f, facts.asking(f.Index))...)
			egress = append(egress, Element{Set: LinkSet, Link: f.Index})
		}
		if first(outs, outKey{f.Index, a.checked(f)}) {
			s.Chains = append(s.Chains, a.outChain(f, facts.asking(f.Index)))
		}
		if first(leaving, f.HostAddress()) {
			// What arrives with an egress address as its source is forged.
			egress = append(egress,
				Element{Set: f.Family().Exit(), Link: f.Index, Address: f.Address}, Element{Set: f.Family().Out(), Address: f.Address, Chain: Forged})
			arrive(f.HostAddress())
		}
	}
	s.Routes = append(s.Routes, Missing(throws, s.Routes)...)
	if len(throws) == 0 {
		return s
	}
	for _, a := range facts.Addresses {
		if links[a.Index] {
			arrive(a.At())
		}
	}
	for _, t := range facts.Tables {
		set := facts.clusterSet(t.Family, t.Index)
		if set == t.Family.Cluster() {
			continue
		}
		for _, p := range disjoint(t.Thrown) {
			cluster = append(cluster, Element{Set: set, Net: p})
		}
	}
	s.Chains = withShared(s.Chains, last)
	s.Elements = slices.Concat(s.Elements, cluster, []Element{UnmarkedElement()}, egress)
	return s
}

// outKey tells apart the chains that classify what pods send.
type outKey struct {
	link    int
	checked string
}

// first reports whether a key is new, and notes it.
func first[K comparable](seen map[K]bool, key K) bool {
	was := seen[key]
	seen[key] = true
	return !was
}

// routes returns those of a table, pods' own throws aside, the closing one first.
func (facts Facts) routes(of Table) []Route {
	if i := slices.IndexFunc(facts.Tables, func(t Table) bool { return t.Key() == of.Key() }); i >= 0 {
		return facts.Tables[i].Routes()
	}
	return []Route{of.Closing()}
}

// clusterSet returns the name of the set with the destinations that never leave by a link: one of
// the link's own, what its table throws, where the configuration names none of the address family.
func (facts Facts) clusterSet(f Family, link int) string {
	if slices.ContainsFunc(facts.Cluster, func(p netip.Prefix) bool { return FamilyOf(p.Addr()) == f }) {
		return f.Cluster()
	}
	return f.ClusterOf(link)
}

// asking is what a chain has that asks whether a destination stays off a link.
func (facts Facts) asking(link int) Chain {
	return Chain{Cluster4: facts.clusterSet(IPv4, link), Cluster6: facts.clusterSet(IPv6, link)}
}

// Less returns what is in s and not in other, and what is in other and not in s.
func (s State) Less(other State) (missing, surplus State) {
	missing.Rules, surplus.Rules = difference(s.Rules, other.Rules)
	missing.Routes, surplus.Routes = difference(s.Routes, other.Routes)
	missing.Addresses, surplus.Addresses = difference(s.Addresses, other.Addresses)
	missing.Chains, surplus.Chains = difference(s.Chains, other.Chains)
	missing.Elements, surplus.Elements = difference(s.Elements, other.Elements)
	return missing, surplus
}

// And returns what is in s, and then what is in other.
func (s State) And(other State) State {
	return State{
		slices.Concat(s.Rules, other.Rules), slices.Concat(s.Routes, other.Routes), slices.Concat(s.Addresses, other.Addresses),
		slices.Concat(s.Chains, other.Chains), slices.Concat(s.Elements, other.Elements),
	}
}

// Own returns what belongs to one pod each.
func (s State) Own() State {
	return State{Rules: own(s.Rules), Routes: own(s.Routes), Elements: own(s.Elements)}
}

func own[T Object](all []T) []T {
	return slices.DeleteFunc(slices.Clone(all), func(o T) bool { return !o.OwnPod().IsValid() })
}

// difference returns what is in a alone and in b alone, each in its order.
func difference[T comparable](a, b []T) (onlyA, onlyB []T) {
	inBoth := make(map[T]bool, len(a))
	for _, v := range a {
		inBoth[v] = false
	}
	for _, v := range b {
		if _, ok := inBoth[v]; ok {
			inBoth[v] = true
		} else {
			onlyB = append(onlyB, v)
		}
	}
	for _, v := range a {
		if !inBoth[v] {
			onlyA = append(onlyA, v)
		}
	}
	return onlyA, onlyB
}

// Missing returns what is in want and not in have, in want's order.
func Missing[T comparable](want, have []T) []T {
	exists := make(map[T]struct{}, len(have))
	for _, v := range have {
		exists[v] = struct{}{}
	}
	var missing []T
	for _, v := range want {
		if _, ok := exists[v]; !ok {
			missing = append(missing, v)
		}
	}
	return missing
}

// Ended returns what attachments have that nothing needs any more once they end: what is their
// pods' own, while no newer attachment has the pod's address, and what none of the rest needs.
// It also returns those pods.
func Ended(ending, rest []Attachment) (gone State, pods []netip.Addr) {
	owners := Owners(slices.Concat(ending, rest))
	mine := slices.Clone(ending)
	for i, a := range ending {
		mine[i].Flows = slices.DeleteFunc(slices.Clone(a.Flows), func(f Flow) bool { return owners[f.Pod] != a.Owner })
	}
	shared := Replaced(ending, rest)
	shared, _ = shared.Less(shared.Own())
	return Desired(mine, Facts{}).Own().And(shared), Pods(mine...)
}

// Replaced returns what attachments need and those that take their place do not. A chain
// is the same whatever is in it. What is known of an address that stays on its link stays with
// the link's chains.
func Replaced(before, after []Attachment) State {
	kept := Desired(after, Facts{})
	gone, _ := Desired(before, Facts{}).Less(kept)
	gone.Chains = slices.DeleteFunc(gone.Chains, func(c Chain) bool {
		return slices.ContainsFunc(kept.Chains, func(k Chain) bool { return k.Name == c.Name })
	})
	gone.Elements = slices.DeleteFunc(gone.Elements, func(e Element) bool {
		return e.Set == FamilyOf(e.host()).Arrived() && !slices.ContainsFunc(gone.Addresses, func(a Address) bool { return a.Address == e.Address })
	})
	return gone
}

// Object is a thing that egress-ip has in a kernel: a [Rule], a [Route], an [Address], a [Chain]
// or an [Element]. Two are the same if they are equal.
type Object interface {
	// Describe names the object as the tool prints it that lists such objects.
	Describe(LinkName) string
	// OwnPod is the address of the pod whose own it is; zero: it is shared.
	OwnPod() netip.Addr
}

// Describe is String with the address family: most look alike in both.
func (r Rule) Describe(LinkName) string { return r.Family.String() + " rule " + r.String() }

// Describe is String with the links' names.
func (r Route) Describe(name LinkName) string   { return "route " + r.text(name) }
func (a Address) Describe(name LinkName) string { return "address " + a.text(name) }
func (c Chain) Describe(LinkName) string        { return c.String() }
func (e Element) Describe(name LinkName) string { return e.text(name) }

// OwnPod is the address of the pod whose source rule it is.
func (r Rule) OwnPod() netip.Addr { return r.From.Addr() }

// OwnPod is the address of the pod whose throw it is.
func (r Route) OwnPod() netip.Addr {
	if !r.IsPodThrow() {
		return netip.Addr{}
	}
	return r.Dst.Addr()
}
func (e Element) OwnPod() netip.Addr { return e.Pod }
func (Address) OwnPod() netip.Addr   { return netip.Addr{} }
func (Chain) OwnPod() netip.Addr     { return netip.Addr{} }

// Objects returns all of it in order.
func (s State) Objects() []Object {
	return slices.Concat(objects(s.Rules), objects(s.Routes), objects(s.Addresses), objects(s.Chains), objects(s.Elements))
}

func objects[T Object](all []T) []Object {
	objects := make([]Object, len(all))
	for i, o := range all {
		objects[i] = o
	}
	return objects
}

// Lines names each thing in it.
func (s State) Lines(name LinkName) []string {
	var lines []string
	for _, o := range s.Objects() {
		lines = append(lines, o.Describe(name))
	}
	return lines
}

// Item is an object and whose it is: of some pods, or, with none, of a link's table, or, with
// no table, of the node.
type Item struct {
	Object
	Pods  []netip.Addr
	Table uint32
}

// Items returns all objects of a state in their order, with whose they are of these
// attachments.
func (s State) Items(attachments []Attachment) []Item {
	owners := Owners(attachments)
	tables := map[any]uint32{} // by a link's mark, and by its chains' names
	users := map[Address][]netip.Addr{}
	for _, f := range OwnFlows(attachments) {
		tables[f.Mark] = f.Table
		for _, chain := range LinkChains(f.Index) {
			tables[chain] = f.Table
		}
		users[f.HostAddress()] = append(users[f.HostAddress()], f.Pod)
	}
	var items []Item
	for _, o := range s.Objects() {
		item := Item{Object: o}
		if _, ok := owners[o.OwnPod()]; ok {
			item.Pods = []netip.Addr{o.OwnPod()}
		}
		switch o := o.(type) {
		case Rule:
			item.Table = tables[o.Mark]
		case Route:
			item.Table = o.Table
		case Address:
			item.Pods = users[o]
		case Chain:
			item.Table = tables[o.Name]
		}
		items = append(items, item)
	}
	return items
}

// Probe is the table ip6 egress_ip_probe: by which links probes come in, and
// their source as sent and as pods see it. The zero Probe is no table.
type Probe struct {
	Links      []string   `json:"links"` // sorted, no link twice
	Source     netip.Addr `json:"source"`
	Translated netip.Addr `json:"translated"`
}

// Exists reports whether there is a table at all.
func (p Probe) Exists() bool { return len(p.Links) > 0 }

// Equal reports whether both are the same table.
func (p Probe) Equal(q Probe) bool {
	return p.Source == q.Source && p.Translated == q.Translated && slices.Equal(p.Links, q.Links)
}
