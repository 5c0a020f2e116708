package egress

import (
	"fmt"
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

// Needs returns what these flows of attachments need, each thing that they share
// once; the links' tables and the chains aside.
func Needs(attachments []Attachment, of func(Attachment) []Flow) State {
	flows := 0
	for _, a := range attachments {
		flows += len(a.Flows)
	}
	const beside = 32 // room for what is shared
	s := State{
		Rules: make([]Rule, 0, flows+beside), Routes: make([]Route, 0, flows+beside), Elements: make([]Element, 0, elementsOfFlow*flows+beside),
	}
	known, addresses := map[Rule][]netip.Prefix{}, map[Address]bool{} // by a link's rule: the cluster networks beside it
	for _, a := range attachments {
		for _, f := range of(a) {
			if cluster, ok := known[a.LinkRule(f)]; !ok || !slices.Equal(cluster, a.ClusterCIDRs) {
				known[a.LinkRule(f)] = a.ClusterCIDRs
				s.Rules = append(s.Rules, Missing(a.SharedRules(f), s.Rules)...)
			}
			s.Rules = append(s.Rules, a.SourceRule(f))
			s.Routes = append(s.Routes, f.PodThrow())
			if at := f.HostAddress(); f.OwnsAddress && !addresses[at] {
				addresses[at] = true
				s.Addresses = append(s.Addresses, at)
			}
			s.Elements = a.Classification(f).appendElements(s.Elements)
		}
	}
	return s
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

// Lines names each thing in it.
func (s State) Lines(name LinkName) []string {
	var lines []string
	for _, r := range s.Rules {
		lines = append(lines, fmt.Sprintf("%s rule %s", r.Family, r)) // most look alike in both
	}
	for _, r := range s.Routes {
		lines = append(lines, "route "+r.Named(name))
	}
	for _, a := range s.Addresses {
		lines = append(lines, "address "+a.Named(name))
	}
	for _, c := range s.Chains {
		lines = append(lines, c.String())
	}
	for _, e := range s.Elements {
		lines = append(lines, e.Named(name))
	}
	return lines
}
