package node

import (
	"slices"

	"github.com/egress-ip/egress-ip/pkg/egress"
)

// linkRoutes returns what main, or the VRF's table, has for a link.
func (n *Node) linkRoutes(index int, family egress.Family) ([]egress.Route, error) {
	links, err := n.kernel.Links(nil, []int{index})
	if err != nil || len(links) == 0 {
		return nil, err
	}
	return n.kernel.LinkRoutes(family, links[0].Table, index)
}

// writeTable brings a link's table up to date: what main has for the link now,
// the cluster's throws, and the closing route, which comes first. When what is
// recorded of the table changes, it may be new, and so without a name.
func (n *Node) writeTable(spec egress.TableSpec, main []egress.Route) error {
	table, err := n.table(spec)
	if err != nil {
		return err
	}
	before, recorded := n.store.Table(spec.Table, spec.Family)
	stale := egress.Missing(before.Thrown, table.Thrown)
	// Killed before the stale throws are gone, the next call must still know of them.
	pending := table
	pending.Thrown = slices.Concat(table.Thrown, stale)
	if !recorded || !before.Equal(pending) {
		if err := n.store.PutTable(pending); err != nil {
			return err
		}
		n.nameTables()
	}
	for _, r := range append([]egress.Route{spec.Closing()}, spec.Throws(table.Thrown)...) {
		if err := n.kernel.AddRoute(r); err != nil {
			return err
		}
	}
	have, err := n.kernel.OurRoutes(spec.Family, spec.Table, egress.Unicast)
	if err != nil {
		return err
	}
	if err := n.kernel.SetRoutes(spec.LinkRoutes(main), have); err != nil {
		return err
	}
	if len(stale) == 0 {
		return nil
	}
	for _, r := range spec.Throws(stale) {
		if r.Dst.IsSingleIP() {
			// It may be the throw of a pod of ours at the same time.
			if claims, err := n.claims(r.Dst.Addr(), egress.Owner{}); err != nil || len(claims) > 0 {
				continue
			}
		}
		if err := n.kernel.DeleteRoute(r); err != nil {
			return err
		}
	}
	return n.store.PutTable(table)
}

// table says what a table is made of.
func (n *Node) table(spec egress.TableSpec) (egress.Table, error) {
	thrown := spec.Cluster
	if len(thrown) == 0 {
		// Pods' and other nodes' routes are in main also where the link is in a VRF.
		all, err := n.kernel.AllRoutes(spec.Family, egress.MainTable)
		if err != nil {
			return egress.Table{}, err
		}
		thrown = spec.DerivedCluster(all)
	}
	return egress.Table{TableSpec: spec, Thrown: slices.Clone(thrown)}, nil
}

// clearTable removes what egress-ip has put into a link's table.
func (n *Node) clearTable(id uint32, family egress.Family) error {
	routes, err := n.kernel.OurRoutes(family, id, 0)
	if err != nil {
		return err
	}
	if err := n.kernel.SetRoutes(nil, routes); err != nil {
		return err
	}
	return n.store.RemoveTable(id, family)
}
