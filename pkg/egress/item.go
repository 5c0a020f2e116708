package egress

import (
	"net/netip"
	"slices"
)

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
