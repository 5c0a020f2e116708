package egress

import (
	"fmt"
	"net/netip"
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

// Family returns the family of the destination.
func (r Route) Family() Family { return FamilyOf(r.Dst.Addr()) }

// IsPodThrow reports whether the route is a throw of a single address, as each pod has one.
func (r Route) IsPodThrow() bool { return r.Type == Throw && r.Dst.IsSingleIP() }

// LinkName names the link with an ifindex.
type LinkName func(index int) string

// Unnamed is how iproute2 writes a link that does not exist.
func Unnamed(index int) string { return fmt.Sprintf("if%d", index) }

// String gives the route as `ip route show table` would, with the table behind.
func (r Route) String() string { return r.Named(Unnamed) }

// Named is String with the link's name.
func (r Route) Named(name LinkName) string {
	return fmt.Sprintf("%s table %d", r.Text(name(r.Link)), r.Table)
}

// Text gives the route as `ip route show table` does; link is its link's name.
func (r Route) Text(link string) string {
	var b strings.Builder
	switch r.Type {
	case Local:
		b.WriteString("local ")
	case Throw:
		b.WriteString("throw ")
	case Unreachable:
		b.WriteString("unreachable ")
	case Blackhole:
		b.WriteString("blackhole ")
	case Prohibit:
		b.WriteString("prohibit ")
	}
	switch {
	case r.Dst.Bits() == 0:
		b.WriteString("default")
	case r.Dst.IsSingleIP():
		b.WriteString(r.Dst.Addr().String())
	default:
		b.WriteString(r.Dst.String())
	}
	if r.From.IsValid() {
		b.WriteString(" from " + selector(r.From))
	}
	if r.TOS != 0 {
		fmt.Fprintf(&b, " tos 0x%02x", r.TOS)
	}
	if r.NextHop.IsValid() {
		fmt.Fprintf(&b, " via %s", r.NextHop)
	}
	if r.Link != 0 {
		b.WriteString(" dev " + link)
	}
	if r.OnLink {
		b.WriteString(" onlink")
	}
	if r.Weight > 1 {
		fmt.Fprintf(&b, " weight %d", r.Weight)
	}
	if r.Metric != 0 {
		fmt.Fprintf(&b, " metric %d", r.Metric)
	}
	switch {
	case r.MTULock:
		fmt.Fprintf(&b, " mtu lock %d", r.MTU)
	case r.MTU != 0:
		fmt.Fprintf(&b, " mtu %d", r.MTU)
	}
	return b.String()
}
