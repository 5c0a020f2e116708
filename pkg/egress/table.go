package egress

import (
	"net/netip"
	"slices"
)

// TableSpec is what the configuration says about one family of a link's table.
type TableSpec struct {
	Table   uint32         `json:"table"`
	Link    string         `json:"link"`
	Index   int            `json:"ifindex"`
	Family  Family         `json:"family"`
	Gateway netip.Addr     `json:"gateway"`           // next hop of the default where main has none; zero: on-link
	Cluster []netip.Prefix `json:"cluster,omitempty"` // destinations that never leave by the link; empty: DerivedCluster
}

// Table is a link's table as it was last written, pods' own throws aside.
type Table struct {
	TableSpec
	Thrown []netip.Prefix `json:"thrown"` // Cluster, or what was derived in its place
}

// Routes returns all routes of the table, pods' own throws aside, the closing one
// first. Main is what main has for the link.
func (t Table) Routes(main []Route) []Route {
	routes := append([]Route{t.Closing()}, t.Throws(t.Thrown)...)
	return append(routes, t.LinkRoutes(main)...)
}

// LinkRoutes returns the routes of a link's table that lead out by the link: a
// copy of those that main (a VRF slave: the VRF's table) has for it, and a
// default. Link routes come before those with a next hop, since the kernel looks
// a next hop up when the route is added.
//
// Of a multipath route only the hops on this link are kept, so nothing leaves by
// another. A route inside a cluster CIDR is left out: the CIDR's throw decides. So is
// one for packets from certain sources alone: pods' are not among them, or not yet
// translated when they are routed.
func (t TableSpec) LinkRoutes(main []Route) []Route {
	var routes []Route
	hasDefault := false
	hops := map[RouteKey]int{}
	for _, r := range main {
		if r.Link != t.Index || r.Type != Unicast || r.Family() != t.Family || r.From.IsValid() ||
			r.Dst.Addr().IsLinkLocalUnicast() || r.Dst.Addr().IsMulticast() || t.isCluster(r.Dst) {
			continue
		}
		if r.Dst.Bits() == 0 && !r.NextHop.IsValid() && t.Gateway.IsValid() {
			continue // the configured next hop wins over none
		}
		hasDefault = hasDefault || r.Dst.Bits() == 0
		r.Table = t.Table
		hops[r.Key()]++
		routes = append(routes, r)
	}
	for i, r := range routes {
		if hops[r.Key()] == 1 {
			routes[i].Weight = 1
		}
	}
	if !hasDefault {
		routes = append(routes, t.defaultRoute(routes))
	}
	slices.SortStableFunc(routes, func(a, b Route) int {
		switch {
		case a.NextHop.IsValid() == b.NextHop.IsValid():
			return 0
		case b.NextHop.IsValid():
			return -1
		default:
			return 1
		}
	})
	return routes
}

// defaultRoute is what stands in for a default that main does not have: by the
// configured gateway, else on the link itself.
func (t TableSpec) defaultRoute(routes []Route) Route {
	r := Route{Table: t.Table, Dst: t.Family.Default(), Type: Unicast, Link: t.Index, Weight: 1}
	if t.Family == IPv6 {
		r.Metric = ipv6Metric
	}
	if t.Gateway.IsValid() {
		r.NextHop = t.Gateway
		r.OnLink = !t.Gateway.IsLinkLocalUnicast() && !slices.ContainsFunc(routes, func(c Route) bool {
			return !c.NextHop.IsValid() && c.Dst.Contains(t.Gateway)
		})
	}
	return r
}

func (t TableSpec) isCluster(dst netip.Prefix) bool {
	return dst.Bits() > 0 && slices.ContainsFunc(t.Cluster, func(c netip.Prefix) bool {
		return c.Bits() <= dst.Bits() && c.Contains(dst.Addr())
	})
}

// DerivedCluster returns the destinations that never leave by the link where the
// configuration names none: every route of main that is no default and not on it. What
// main has on the link is left out, also of a prefix that contains it.
func (t TableSpec) DerivedCluster(main []Route) []netip.Prefix {
	var cluster, onLink []netip.Prefix
	for _, r := range main {
		if r.Family() != t.Family || r.Dst.Bits() < shortestSpecific || r.From.IsValid() ||
			r.Dst.Addr().IsLinkLocalUnicast() || r.Dst.Addr().IsMulticast() {
			continue
		}
		if r.Link == t.Index {
			onLink = append(onLink, r.Dst)
		} else {
			cluster = append(cluster, r.Dst)
		}
	}
	slices.SortFunc(cluster, netip.Prefix.Compare)
	return Subtract(slices.Compact(cluster), onLink)
}

// Throws returns a throw route for each prefix: a packet for it goes on to the
// rules behind, and so to main.
func (t TableSpec) Throws(cluster []netip.Prefix) []Route {
	throws := make([]Route, 0, len(cluster))
	for _, c := range cluster {
		throws = append(throws, throw(t.Table, c))
	}
	return throws
}

// Closing returns the route that keeps an emptied table from falling through to
// main: it hangs on no link, so it stays when the link goes down.
func (t TableSpec) Closing() Route {
	return Route{Table: t.Table, Dst: t.Family.Default(), Type: Unreachable, Metric: UnreachableMetric, Weight: 1}
}

func throw(table uint32, dst netip.Prefix) Route {
	r := Route{Table: table, Dst: dst, Type: Throw, Weight: 1}
	if FamilyOf(dst.Addr()) == IPv6 {
		r.Metric = ipv6Metric
	}
	return r
}

// Astray returns those of somebody else's routes in the table that can take a packet
// elsewhere than out by the link, or nowhere.
func (t TableSpec) Astray(others []Route) []Route {
	return slices.DeleteFunc(slices.Clone(others), func(r Route) bool { return r.Type == Unicast && r.Link == t.Index })
}

// IsSame reports whether both are the same address family of the same table, whatever is in it.
func (t Table) IsSame(o Table) bool { return t.Table == o.Table && t.Family == o.Family }

// Equal reports whether both are the same, networks in the same order.
func (t Table) Equal(o Table) bool {
	return t.Table == o.Table && t.Link == o.Link && t.Index == o.Index && t.Family == o.Family && t.Gateway == o.Gateway &&
		slices.Equal(t.Cluster, o.Cluster) && slices.Equal(t.Thrown, o.Thrown)
}
