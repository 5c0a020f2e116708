package egress

import (
	"net/netip"
	"slices"
)

// State is what egress-ip has in a node's kernel, or is to have, the probe table
// aside: what is recorded asks for one, the kernel is read as one, and what is
// missing, or there for nobody, is the difference.
type State struct {
	Rules     []Rule
	Routes    []Route
	Addresses []Address
	Chains    []Chain
	Elements  []Element
}

// Facts are what a node has, as far as what should exist follows from it.
type Facts struct {
	Tables    []LinkTable    // of the links that attachments leave by; a table that is not among them gets its closing route alone
	Cluster   []netip.Prefix // as the last ADD configured them
	Addresses []LinkAddress
	Without   map[netip.Addr]bool // pod addresses that have no address to leave with at the moment
}

// LinkTable is one address family of a link's table as it should be.
type LinkTable struct {
	Table
	Main []Route // what main has for the link
	Down bool    // the link cannot send
}

// Has reports whether a route is one of the table's.
func (t LinkTable) Has(r Route) bool { return t.Table.Table == r.Table && t.Family == r.Family() }

// Desired returns what should exist for attachments, each thing that they share once, and
// each thing before what needs it.
func Desired(attachments []Attachment, facts Facts) State {
	owners, flows := Owners(attachments), 0
	for _, a := range attachments {
		flows += len(a.Flows)
	}
	const beside = 32 // room for what is shared
	s := State{
		Rules: make([]Rule, 0, flows+beside), Routes: make([]Route, 0, flows+beside), Elements: make([]Element, 0, elementsOfFlow*flows+beside),
	}
	known, addresses := map[Rule][]netip.Prefix{}, map[Address]bool{} // by a link's rule: the cluster networks beside it
	classes := Classes{Cluster: facts.Cluster}
	type tableKey struct {
		table  uint32
		family Family
	}
	tables := map[tableKey]bool{}
	var throws []Route // pods' own
	for _, a := range attachments {
		for _, f := range a.Flows {
			if owners[f.Pod] != a.Owner {
				continue // another pod has the address by now
			}
			if cluster, ok := known[a.LinkRule(f)]; !ok || !slices.Equal(cluster, a.ClusterCIDRs) {
				known[a.LinkRule(f)] = a.ClusterCIDRs
				s.Rules = append(s.Rules, Missing(a.SharedRules(f), s.Rules)...)
			}
			s.Rules = append(s.Rules, a.SourceRule(f))
			if key := (tableKey{f.Table, f.Family()}); !tables[key] {
				tables[key] = true
				s.Routes = append(s.Routes, facts.routes(a.TableSpec(f))...)
			}
			throws = append(throws, f.PodThrow())
			if at := f.HostAddress(); f.OwnsAddress && !addresses[at] {
				addresses[at] = true
				s.Addresses = append(s.Addresses, at)
			}
			c := a.Classification(f)
			classes.Mask, classes.Foreign, classes.Pods = a.MarkMask, a.foreignMarks(), append(classes.Pods, c)
			s.Elements = c.appendElements(s.Elements)
			if facts.Without[f.Pod] {
				// It is not translated, and so not let out.
				s.Elements = slices.DeleteFunc(s.Elements, func(e Element) bool { return e.Pod == f.Pod && e.Set == f.Family().SNAT() })
			}
		}
	}
	s.Routes = append(s.Routes, Missing(throws, s.Routes)...)
	if len(classes.Pods) == 0 {
		return s
	}
	for _, t := range facts.Tables {
		classes.Derived = append(classes.Derived, t.Table)
	}
	for _, on := range facts.Addresses {
		classes.Arrived = append(classes.Arrived, Address{Link: on.Index, Address: on.Network.Addr()})
	}
	s.Chains = classes.Chains()
	s.Elements = slices.Concat(s.Elements, classes.ClusterElements(), classes.SharedElements())
	return s
}

// routes returns those of a table, pods' own throws aside, the closing one first.
func (facts Facts) routes(spec TableSpec) []Route {
	for _, t := range facts.Tables {
		if !t.IsSame(Table{TableSpec: spec}) {
			continue
		}
		routes := t.Routes(t.Main)
		if t.Down {
			routes = slices.DeleteFunc(routes, func(r Route) bool { return r.Type == Unicast })
		}
		return routes
	}
	return []Route{spec.Closing()}
}

// Own returns what belongs to one pod each.
func (s State) Own() State {
	return State{
		Rules:    slices.DeleteFunc(slices.Clone(s.Rules), func(r Rule) bool { return !r.From.IsValid() }),
		Routes:   slices.DeleteFunc(slices.Clone(s.Routes), func(r Route) bool { return !r.IsPodThrow() }),
		Elements: slices.DeleteFunc(slices.Clone(s.Elements), func(e Element) bool { return !e.Pod.IsValid() }),
	}
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

// Ended returns what attachments have that nothing needs any more once they end: what is their
// pods' own, while no newer attachment has the pod's address, and what none of the rest needs.
// It also returns those pods.
func Ended(ending, rest []Attachment) (gone State, pods []netip.Addr) {
	owners := Owners(slices.Concat(ending, rest))
	mine := slices.Clone(ending)
	for i, a := range ending {
		mine[i].Flows = slices.DeleteFunc(slices.Clone(a.Flows), func(f Flow) bool { return owners[f.Pod] != a.Owner })
		for _, f := range mine[i].Flows {
			pods = append(pods, f.Pod)
		}
	}
	own := Desired(mine, Facts{}).Own()
	shared := Replaced(ending, rest)
	isOwn := shared.Own()
	shared, _ = shared.Less(isOwn)
	return own.And(shared), pods
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

// Missing returns what is in want and not in have, in want's order.
func Missing[T comparable](want, have []T) []T {
	there := make(map[T]struct{}, len(have))
	for _, v := range have {
		there[v] = struct{}{}
	}
	var missing []T
	for _, v := range want {
		if _, ok := there[v]; !ok {
			missing = append(missing, v)
		}
	}
	return missing
}

// Object is a thing that egress-ip has in a kernel: a [Rule], a [Route], an [Address], a [Chain]
// or an [Element]. Two are the same if they are equal.
type Object interface {
	// Describe names the object as the tool prints it that lists such objects.
	Describe(LinkName) string
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
	tables := map[any]uint32{}      // by a link's mark, and by its chains' names
	users := map[any][]netip.Addr{} // by addresses, and by pods' throws
	for _, a := range attachments {
		for _, f := range a.Flows {
			if owners[f.Pod] != a.Owner {
				continue
			}
			tables[f.Mark] = f.Table
			for _, chain := range LinkChains(f.Index) {
				tables[chain] = f.Table
			}
			users[f.HostAddress()] = append(users[f.HostAddress()], f.Pod)
			users[f.PodThrow()] = []netip.Addr{f.Pod}
		}
	}
	pod := func(p netip.Addr) []netip.Addr {
		if !p.IsValid() {
			return nil
		}
		return []netip.Addr{p}
	}
	items := make([]Item, 0, len(s.Rules)+len(s.Routes)+len(s.Addresses)+len(s.Chains)+len(s.Elements))
	for _, r := range s.Rules {
		item := Item{Object: r, Pods: pod(r.From)}
		if r.Mark != 0 && !r.From.IsValid() {
			item.Table = tables[r.Mark]
		}
		items = append(items, item)
	}
	for _, r := range s.Routes {
		items = append(items, Item{r, users[r], r.Table})
	}
	for _, a := range s.Addresses {
		items = append(items, Item{Object: a, Pods: users[a]})
	}
	for _, c := range s.Chains {
		items = append(items, Item{Object: c, Table: tables[c.Name]})
	}
	for _, e := range s.Elements {
		items = append(items, Item{Object: e, Pods: pod(e.Pod)})
	}
	return items
}

// Lines names each thing in it.
func (s State) Lines(name LinkName) []string {
	var lines []string
	for _, item := range s.Items(nil) {
		lines = append(lines, item.Describe(name))
	}
	return slices.Clip(lines)
}

// Describe is String with the address family: most look alike in both.
func (r Rule) Describe(LinkName) string { return r.Family.String() + " rule " + r.String() }

// Describe is String with the links' names.
func (r Route) Describe(name LinkName) string   { return "route " + r.Named(name) }
func (a Address) Describe(name LinkName) string { return "address " + a.Named(name) }
func (c Chain) Describe(LinkName) string        { return c.String() }
func (e Element) Describe(name LinkName) string { return e.Named(name) }
