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
