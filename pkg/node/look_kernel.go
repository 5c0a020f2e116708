package node

import (
	"slices"

	"github.com/egress-ip/egress-ip/pkg/config"
	"github.com/egress-ip/egress-ip/pkg/egress"
)

// lookAtAllRules reads the rules that are ours by their priority, or by what only
// egress-ip's look like.
func (n *Node) lookAtAllRules(v *view) error {
	priorities := []uint32{config.DefaultRulePriority}
	for _, a := range v.attached {
		if !slices.Contains(priorities, a.RulePriority) {
			priorities = append(priorities, a.RulePriority)
		}
	}
	for _, family := range egress.Families {
		ours, err := n.kernel.Rules(family)
		if err != nil {
			return err
		}
		v.have.Rules = append(v.have.Rules, egress.Ours(ours, append(egress.SourcePriorities(ours), priorities...))...)
	}
	return nil
}

// lookAtAllRoutes reads every table that is ours by record, by a rule of ours, or
// by its closing route.
func (n *Node) lookAtAllRoutes(v *view) error {
	if v.noRoutes {
		return nil
	}
	links := map[key]int{} // 0: not known
	for _, r := range v.have.Rules {
		if r.Table > 255 {
			links[key{r.Table, r.Family}] = 0
		}
	}
	for _, family := range egress.Families {
		closed, err := n.kernel.OurRoutes(family, egress.Unreachable)
		if err != nil {
			return err
		}
		for _, r := range closed {
			if r.IsClosing() {
				links[key{r.Table, family}] = 0
			}
		}
	}
	for _, t := range v.before {
		links[key{t.Table, t.Family}] = t.Index
	}
	for _, t := range v.tables {
		links[key{t.Table.Table, t.Family}] = t.Index
	}
	wanted := map[key]map[egress.RouteKey]bool{}
	for _, r := range v.want.Routes {
		k := key{r.Table, r.Family()}
		if wanted[k] == nil {
			wanted[k] = map[egress.RouteKey]bool{}
		}
		wanted[k][r.Key()] = true
	}
	for k, link := range links {
		ours, others, err := n.kernel.TableRoutes(k.family, k.table, link, wanted[k])
		if err != nil {
			return err
		}
		v.have.Routes = append(v.have.Routes, ours...)
		if wanted[k] != nil {
			v.astray = append(v.astray, egress.TableSpec{Index: link}.Astray(others)...)
		}
	}
	return nil
}

// lookAtAllAddresses finds out which egress addresses are to stand, and which do.
// While a link is down it has no IPv6 addresses, and it gets no IPv4 ones: they could not
// be announced.
func (n *Node) lookAtAllAddresses(v *view) error {
	standing := addressesOf(v.addresses)
	ours := map[egress.Address]bool{}
	for _, a := range v.recorded { // also where they stood before
		for _, f := range a.Flows {
			ours[f.HostAddress()] = ours[f.HostAddress()] || f.OwnsAddress
		}
	}
	for _, a := range v.want.Addresses {
		ours[a] = true
	}
	cannot := map[egress.Address]bool{}
	for _, a := range v.attached {
		for _, f := range v.mine(a) {
			l, up := v.link(f.Link)
			at := f.HostAddress()
			stands := slices.Contains(standing, at)
			if l.Index != f.Index || !up && !stands {
				cannot[at] = true
			} else if !ours[at] && !stands && !slices.Contains(v.absent, at) {
				v.absent = append(v.absent, at)
			}
		}
	}
	v.want.Addresses = slices.DeleteFunc(v.want.Addresses, func(a egress.Address) bool { return cannot[a] })
	for _, a := range standing {
		if ours[a] {
			v.have.Addresses = append(v.have.Addresses, a)
		}
	}
	return nil
}
