package egress

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// RouteType is what happens to a packet that a route matches.
type RouteType uint8

// The values are the kernel's RTN_* (linux/rtnetlink.h).
const (
	Unicast     RouteType = 1
	Local       RouteType = 2
	Blackhole   RouteType = 6
	Unreachable RouteType = 7
	Prohibit    RouteType = 8
	Throw       RouteType = 9
)

// String gives the type as `ip` prints it; unicast, which it leaves out, as nothing.
func (t RouteType) String() string {
	return map[RouteType]string{Local: "local", Blackhole: "blackhole", Unreachable: "unreachable", Prohibit: "prohibit", Throw: "throw"}[t]
}

// Metrics that the kernel or DESIGN gives a route that names none.
const (
	// UnreachableMetric is that of the route that closes a table: behind every
	// default that a person or a daemon would write, so that it only counts when
	// the link's own default has gone.
	UnreachableMetric = 4278198272
	// ipv6Metric is what the kernel makes of metric 0 (IP6_RT_PRIO_USER).
	ipv6Metric = 1024
)

// Route is one next hop of one route. The routes of one table that share
// destination, TOS and metric are the hops of a multipath route; a route of
// its own is a multipath of one, with weight 1.
type Route struct {
	Table   uint32
	Dst     netip.Prefix
	From    netip.Prefix // zero: packets from anywhere; only others' IPv6 routes have one
	TOS     uint8
	Metric  uint32
	Type    RouteType
	Link    int        // ifindex; 0 where the type has no next hop
	NextHop netip.Addr // zero: the destination is on the link
	OnLink  bool       // the next hop is on the link though no route says so
	Weight  uint8      // from 1
	MTU     uint32     // 0: the link's
	MTULock bool       // no path MTU discovery below MTU
}

// RouteKey is what the kernel tells one route of a table from another by.
type RouteKey struct {
	Dst    netip.Prefix
	From   netip.Prefix
	TOS    uint8
	Metric uint32
}

// Key returns what the route shares with the other hops of its multipath.
func (r Route) Key() RouteKey { return RouteKey{r.Dst, r.From, r.TOS, r.Metric} }

// TableKey is one address family of a table.
type TableKey struct {
	Table  uint32
	Family Family
}

// TableKey says where the route is.
func (r Route) TableKey() TableKey { return TableKey{r.Table, r.Family()} }

// Family returns the address family of the destination.
func (r Route) Family() Family { return FamilyOf(r.Dst.Addr()) }

// IsPodThrow reports whether the route is a throw of a single address, as each pod has one.
func (r Route) IsPodThrow() bool { return r.Type == Throw && r.Dst.IsSingleIP() }

// IsClosing reports whether the route is the one that closes a link's table.
func (r Route) IsClosing() bool { return r == Table{Table: r.Table, Family: r.Family()}.Closing() }

// String gives the route as `ip route show table` would, with the table behind.
func (r Route) String() string { return r.text(Unnamed) }

func (r Route) text(name LinkName) string {
	return fmt.Sprintf("%s table %d", r.Text(name(r.Link)), r.Table)
}

// Text gives the route as `ip route show table` does; link is its link's name.
func (r Route) Text(link string) string {
	var words []string
	add := func(is bool, format string, args ...any) {
		if is {
			words = append(words, fmt.Sprintf(format, args...))
		}
	}
	add(r.Type.String() != "", "%s", r.Type)
	if r.Dst.Bits() == 0 {
		add(true, "default")
	} else {
		add(true, "%s", selector(r.Dst))
	}
	add(r.From.IsValid(), "from %s", selector(r.From))
	add(r.TOS != 0, "tos 0x%02x", r.TOS)
	add(r.NextHop.IsValid(), "via %s", r.NextHop)
	add(r.Link != 0, "dev %s", link)
	add(r.OnLink, "onlink")
	add(r.Weight > 1, "weight %d", r.Weight)
	add(r.Metric != 0, "metric %d", r.Metric)
	add(r.MTULock, "mtu lock %d", r.MTU)
	add(r.MTU != 0 && !r.MTULock, "mtu %d", r.MTU)
	return strings.Join(words, " ")
}

// LongestMatch returns the route of one table that the kernel takes for a packet
// of no special TOS or source; the zero Route where none matches.
func LongestMatch(routes []Route, to netip.Addr) Route {
	var best Route
	for _, r := range routes {
		if r.TOS != 0 || r.From.IsValid() || !r.Dst.Contains(to) {
			continue
		}
		if !best.Dst.IsValid() || r.Dst.Bits() > best.Dst.Bits() ||
			r.Dst.Bits() == best.Dst.Bits() && r.Metric < best.Metric {
			best = r
		}
	}
	return best
}

// Table is one address family of a link's table, pods' own throws aside: as the configuration asks
// for it, as it was last written, and what it depends on.
type Table struct {
	Table   uint32         `json:"table"`
	Link    string         `json:"link"`
	Index   int            `json:"ifindex"`
	Family  Family         `json:"family"`
	Gateway netip.Addr     `json:"gateway"`           // next hop of the default where main has none; zero: on-link
	Cluster []netip.Prefix `json:"cluster,omitempty"` // destinations that never leave by the link; empty: DerivedCluster
	Thrown  []netip.Prefix `json:"thrown"`            // Cluster, or what was derived in its place

	Main []Route `json:"-"` // what main has for the link
	Down bool    `json:"-"` // the link cannot send
}

// Key says which table it is, whatever is in it.
func (t Table) Key() TableKey { return TableKey{t.Table, t.Family} }

// Has reports whether a route is one of the table's.
func (t Table) Has(r Route) bool { return t.Key() == r.TableKey() }

// Equal reports whether the same is recorded of both, networks in the same order.
func (t Table) Equal(o Table) bool {
	return t.Key() == o.Key() && t.Link == o.Link && t.Index == o.Index && t.Gateway == o.Gateway &&
		slices.Equal(t.Cluster, o.Cluster) && slices.Equal(t.Thrown, o.Thrown)
}

// Routes returns all routes of the table, pods' own throws aside, the closing one
// first. Nothing leads out while the link is down.
func (t Table) Routes() []Route {
	routes := append([]Route{t.Closing()}, t.throws()...)
	if t.Down {
		return routes
	}
	return append(routes, t.LinkRoutes()...)
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
func (t Table) LinkRoutes() []Route {
	var routes []Route
	hasDefault := false
	hops := map[RouteKey]int{}
	for _, r := range t.Main {
		if r.Link != t.Index || r.Type != Unicast || !t.concerns(r) || t.isCluster(r.Dst) {
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
		}
		return 1
	})
	return routes
}

// concerns reports whether a route of main says something about where packets of pods go.
func (t Table) concerns(r Route) bool {
	return r.Family() == t.Family && !r.From.IsValid() && !r.Dst.Addr().IsLinkLocalUnicast() && !r.Dst.Addr().IsMulticast()
}

// defaultRoute is what takes the place of a default that main does not have: by the
// configured gateway, else on the link itself.
func (t Table) defaultRoute(routes []Route) Route {
	r := t.route(t.Family.Default(), Unicast)
	r.Link = t.Index
	if t.Gateway.IsValid() {
		r.NextHop = t.Gateway
		r.OnLink = !t.Gateway.IsLinkLocalUnicast() && !slices.ContainsFunc(routes, func(c Route) bool {
			return !c.NextHop.IsValid() && c.Dst.Contains(t.Gateway)
		})
	}
	return r
}

func (t Table) isCluster(dst netip.Prefix) bool {
	return dst.Bits() > 0 && slices.ContainsFunc(t.Cluster, func(c netip.Prefix) bool {
		return c.Bits() <= dst.Bits() && c.Contains(dst.Addr())
	})
}

// DerivedCluster returns the destinations that never leave by the link where the
// configuration names none: every route of main that is no default and not on it. What
// main has on the link is left out, also of a prefix that contains it.
func (t Table) DerivedCluster(main []Route) []netip.Prefix {
	var cluster, onLink []netip.Prefix
	for _, r := range main {
		if !t.concerns(r) || !IsSpecific(r.Dst) {
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

// throws returns a throw route for each of the cluster's networks: a packet for it goes on to the
// rules behind, and so to main.
func (t Table) throws() []Route {
	throws := make([]Route, 0, len(t.Thrown))
	for _, c := range t.Thrown {
		throws = append(throws, throw(t.Table, c))
	}
	return throws
}

// Closing returns the route that keeps an emptied table from falling through to
// main: it does not depend on a link, so it stays when the link goes down.
func (t Table) Closing() Route {
	r := t.route(t.Family.Default(), Unreachable)
	r.Metric = UnreachableMetric
	return r
}

func throw(table uint32, dst netip.Prefix) Route { return Table{Table: table}.route(dst, Throw) }

// route returns one of the table, with the metric that the kernel gives it.
func (t Table) route(dst netip.Prefix, as RouteType) Route {
	r := Route{Table: t.Table, Dst: dst, Type: as, Weight: 1}
	if r.Family() == IPv6 {
		r.Metric = ipv6Metric
	}
	return r
}

// Astray returns those of somebody else's routes in the table that can take a packet
// elsewhere than out by the link, or nowhere.
func (t Table) Astray(others []Route) []Route {
	return slices.DeleteFunc(slices.Clone(others), func(r Route) bool { return r.Type == Unicast && r.Link == t.Index })
}

// disjoint returns the prefixes in order, without those that are inside another.
func disjoint(prefixes []netip.Prefix) []netip.Prefix {
	var apart []netip.Prefix
	for _, p := range slices.SortedFunc(slices.Values(prefixes), netip.Prefix.Compare) {
		if n := len(apart); n == 0 || !apart[n-1].Overlaps(p) {
			apart = append(apart, p)
		}
	}
	return apart
}

// Subtract returns the prefixes without those of others that are inside them, or equal, as
// prefixes: as with routes, the longest decides.
func Subtract(prefixes, others []netip.Prefix) []netip.Prefix {
	sorted := slices.SortedFunc(slices.Values(others), netip.Prefix.Compare)
	var left []netip.Prefix
	for _, p := range prefixes {
		left = appendWithout(left, p, inside(p, sorted))
	}
	return left
}

// inside returns those of the sorted prefixes that p contains.
func inside(p netip.Prefix, sorted []netip.Prefix) []netip.Prefix {
	first, _ := slices.BinarySearchFunc(sorted, p, netip.Prefix.Compare)
	last := first
	for last < len(sorted) && p.Contains(sorted[last].Addr()) {
		last++
	}
	return sorted[first:last]
}

// appendWithout halves p until none of the others, which p contains, is in a part.
func appendWithout(left []netip.Prefix, p netip.Prefix, others []netip.Prefix) []netip.Prefix {
	if len(others) == 0 {
		return append(left, p)
	}
	if slices.Contains(others, p) {
		return left
	}
	bits := p.Bits() + 1
	b := p.Masked().Addr().AsSlice()
	b[p.Bits()/8] |= 0x80 >> (p.Bits() % 8)
	upper, _ := netip.AddrFromSlice(b)
	for _, half := range []netip.Prefix{netip.PrefixFrom(p.Masked().Addr(), bits), netip.PrefixFrom(upper, bits)} {
		left = appendWithout(left, half, inside(half, others))
	}
	return left
}
