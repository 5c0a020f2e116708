package node

import (
	"fmt"
	"slices"

	"github.com/egress-ip/egress-ip/pkg/config"
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
func (n *Node) writeTable(spec egress.TableSpec, main []egress.Route) (egress.Table, error) {
	table, err := n.table(spec)
	if err != nil {
		return table, err
	}
	before, recorded, err := n.store.Table(spec.Table, spec.Family)
	if err != nil {
		return table, err
	}
	stale := egress.Missing(before.Thrown, table.Thrown)
	// Killed before the stale throws are gone, the next call must still know of them.
	pending := table
	pending.Thrown = slices.Concat(table.Thrown, stale)
	if !recorded || !before.Equal(pending) {
		if err := n.store.PutTable(pending); err != nil {
			return table, err
		}
		n.nameTables()
	}
	for _, r := range append([]egress.Route{spec.Closing()}, spec.Throws(table.Thrown)...) {
		if err := n.kernel.AddRoute(r); err != nil {
			return table, err
		}
	}
	have, err := n.kernel.OurRoutes(spec.Family, spec.Table, spec.Index, egress.Unicast)
	if err != nil {
		return table, err
	}
	if err := n.kernel.SetRoutes(spec.LinkRoutes(main), have); err != nil {
		return table, err
	}
	if len(stale) == 0 {
		return table, nil
	}
	for _, r := range spec.Throws(stale) {
		if r.Dst.IsSingleIP() {
			// It may be the throw of a pod of ours at the same time.
			if claims, err := n.claims(r.Dst.Addr(), egress.Owner{}); err != nil || len(claims) > 0 {
				continue
			}
		}
		if err := n.kernel.DeleteRoute(r); err != nil {
			return table, err
		}
	}
	return table, n.store.PutTable(table)
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

// clearTable removes what egress-ip has put into a flow's table, and nothing of others.
func (n *Node) clearTable(f egress.Flow) error {
	routes, _, err := n.kernel.TableRoutes(f.Family(), f.Table, f.Index, nil)
	if err != nil {
		return err
	}
	if err := n.kernel.SetRoutes(nil, routes); err != nil {
		return err
	}
	return n.store.RemoveTable(f.Table, f.Family())
}

// checkTable refuses a flow's table, at its first use, that holds routes of somebody else.
// What a call that was killed has left has its closing route.
func (n *Node) checkTable(c config.Config, f egress.Flow) error {
	records, err := n.records()
	if err != nil {
		return err
	}
	table := egress.TableObject(f)
	for a := range records.Mentioning(table.Mentioned()) {
		if slices.Contains(a.Objects(a.Flows...), table) {
			return nil
		}
	}
	left, others, err := n.kernel.TableRoutes(f.Family(), f.Table, f.Index, nil)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(left, egress.Route.IsClosing) {
		others = append(others, left...)
	}
	if len(others) == 0 {
		return nil
	}
	return &ConflictError{fmt.Sprintf(
		"somebody else uses table %d, which is tableBase %d + %d, the ifindex of %s: it has the %s route `%s`; remove the routes in it (`ip route show table %d`), or set tableBase",
		f.Table, c.TableBase, f.Index, f.Link, f.Family(), others[0].Text(n.linkName(others[0].Link)), f.Table)}
}

// linkName names the link with an ifindex, see [egress.LinkName].
func (n *Node) linkName(index int) string {
	if name, err := n.kernel.Name(index); err == nil {
		return name
	}
	return egress.Unnamed(index)
}
