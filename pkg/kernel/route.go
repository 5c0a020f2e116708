package kernel

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/egress-ip/egress-ip/pkg/egress"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// LinkRoutes returns the unicast routes of a table that use a link; of a
// multipath route also the hops by other links. The kernel filters.
func (k *Kernel) LinkRoutes(f egress.Family, table uint32, link int) ([]egress.Route, error) {
	return k.routes(f, routeQuery{table: table, link: link, typ: egress.Unicast}, anyRoute)
}

// AllRoutes returns every route of a table.
func (k *Kernel) AllRoutes(f egress.Family, table uint32) ([]egress.Route, error) {
	return k.routes(f, routeQuery{table: table}, anyRoute)
}

// OurRoutes returns the routes of a link's table that egress-ip put there, of
// one type, or, with type 0, of all; with link 0, by any link.
func (k *Kernel) OurRoutes(f egress.Family, table uint32, link int, of egress.RouteType) ([]egress.Route, error) {
	return k.routes(f, routeQuery{table: table, typ: of}, func(r routeMessage) bool { return ourRoute(r, link) })
}

// TableRoutes returns the routes of a link's table that egress-ip put there, or that have the
// place of one that is wanted; and those that are somebody else's. With link 0 it is not
// known which link's table it is.
func (k *Kernel) TableRoutes(f egress.Family, table uint32, link int, wanted map[egress.RouteKey]bool) (ours, others []egress.Route, err error) {
	return k.tableRoutes(f, routeQuery{table: table}, link, wanted)
}

// TableRoutesBeside is TableRoutes without the throws of pods that are not among these routes:
// there may be thousands.
func (k *Kernel) TableRoutesBeside(routes []egress.Route, f egress.Family, table uint32, link int) (ours, others []egress.Route, err error) {
	of := map[netip.Addr]bool{}
	for _, r := range routes {
		if r.Type == egress.Throw && r.Dst.IsSingleIP() {
			of[r.Dst.Addr()] = true
		}
	}
	return k.tableRoutes(f, routeQuery{table: table, pods: of}, link, nil)
}

func (k *Kernel) tableRoutes(f egress.Family, of routeQuery, link int, wanted map[egress.RouteKey]bool) (ours, others []egress.Route, err error) {
	all, err := k.readRoutes(f, of)
	if err != nil {
		return nil, nil, err
	}
	// Into a VRF's table the kernel itself puts the networks of links, which look like ours
	// as long as it is not known by which link ours lead.
	vrf := link == 0 && slices.ContainsFunc(all, func(r routeMessage) bool { return r.hops[0].Type == egress.Local })
	isOurs := func(r routeMessage) bool {
		first := r.hops[0]
		return wanted[first.Key()] || ourRoute(r, link) && !(vrf && first.Type == egress.Unicast && !first.NextHop.IsValid())
	}
	ours = hopsOf(all, isOurs)
	others = hopsOf(all, func(r routeMessage) bool { return !isOurs(r) })
	return ours, others, nil
}

func anyRoute(routeMessage) bool { return true }

// ourRoute knows a route of ours in a link's table by its protocol and its type; by which
// link, if any, it leads; and that it has no source.
func ourRoute(r routeMessage, link int) bool {
	if r.protocol != unix.RTPROT_KERNEL || r.hops[0].From.IsValid() {
		return false
	}
	switch r.hops[0].Type {
	case egress.Unicast:
		// The kernel's own have no next hop.
		return link == 0 || r.hops[0].NextHop.IsValid() || !slices.ContainsFunc(r.hops, func(hop egress.Route) bool { return hop.Link != link })
	case egress.Throw, egress.Unreachable, egress.Prohibit, egress.Blackhole:
		return true
	}
	return false // the kernel's own, of a VRF
}

func (k *Kernel) routes(f egress.Family, of routeQuery, keep func(routeMessage) bool) ([]egress.Route, error) {
	all, err := k.readRoutes(f, of)
	return hopsOf(all, keep), err
}

func (k *Kernel) readRoutes(f egress.Family, of routeQuery) ([]routeMessage, error) {
	all, err := dump(func() ([]routeMessage, error) { return k.dumpRoutes(f, of) })
	if errors.Is(err, unix.ENOENT) {
		return nil, nil // no such table
	}
	if err != nil {
		return nil, fmt.Errorf("read %s routes of table %d: %w", f, of.table, err)
	}
	return all, nil
}

func hopsOf(all []routeMessage, keep func(routeMessage) bool) []egress.Route {
	var routes []egress.Route
	var last routeKey
	for _, r := range all {
		// Several IPv4 routes may share a key (ip route append): the first counts. The
		// kernel has them one behind the other.
		if key := keyOf(r.hops[0]); keep(r) && key != last {
			last = key
			routes = append(routes, r.hops...)
		}
	}
	return routes
}

// fromRoutes returns the route that has these hops, which all have one key.
func fromRoutes(hops []egress.Route) *netlink.Route {
	first := hops[0]
	r := &netlink.Route{
		Table: int(first.Table), Dst: fromPrefix(first.Dst), Tos: int(first.TOS), Priority: int(first.Metric),
		Type: int(first.Type), MTU: int(first.MTU), MTULock: first.MTULock,
		Protocol: unix.RTPROT_KERNEL,
	}
	if first.Type != egress.Unicast {
		return r
	}
	if first.Family() == egress.IPv4 && !first.NextHop.IsValid() {
		// Or the kernel takes it for one with a next hop when it looks one up.
		r.Scope = unix.RT_SCOPE_LINK
	}
	if len(hops) == 1 {
		r.LinkIndex = first.Link
		r.Gw, r.Via = gateway(first)
		if first.OnLink {
			r.Flags = unix.RTNH_F_ONLINK
		}
		return r
	}
	for _, h := range hops {
		hop := &netlink.NexthopInfo{LinkIndex: h.Link, Hops: int(h.Weight) - 1}
		hop.Gw, hop.Via = gateway(h)
		if h.OnLink {
			hop.Flags = unix.RTNH_F_ONLINK
		}
		r.MultiPath = append(r.MultiPath, hop)
	}
	return r
}

func gateway(r egress.Route) (net.IP, netlink.Destination) {
	switch {
	case !r.NextHop.IsValid():
		return nil, nil
	case r.NextHop.Is6() && r.Family() == egress.IPv4:
		return nil, &netlink.Via{AddrFamily: unix.AF_INET6, Addr: r.NextHop.AsSlice()}
	}
	return r.NextHop.AsSlice(), nil
}

// SetRoutes turns have into want: what is new or changed is written in want's
// order, and what is no longer wanted is deleted after that.
func (k *Kernel) SetRoutes(want, have []egress.Route) error {
	old := hopsByKey(have)
	wanted := hopsByKey(want)
	for _, r := range want {
		hops, before := wanted[keyOf(r)], old[keyOf(r)]
		if hops[0] != r || sameHops(hops, before) {
			continue
		}
		if len(before) > 0 {
			if err := k.replaceRoute(hops, before); err != nil {
				return err
			}
			continue
		}
		if err := k.AddRoute(hops...); err != nil {
			return err
		}
	}
	for _, r := range have {
		if _, keep := wanted[keyOf(r)]; keep || old[keyOf(r)][0] != r {
			continue
		}
		if err := k.DeleteRoute(old[keyOf(r)]...); err != nil {
			return err
		}
	}
	return nil
}

// AddRoute adds the hops of one route.
func (k *Kernel) AddRoute(hops ...egress.Route) error {
	if err := k.rt().RouteAdd(fromRoutes(hops)); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add route %s: %w", hops[0], noAnswer(err))
	}
	return nil
}

// replaceRoute changes a route in place. IPv6 replaces only like by like (a
// multipath, or a throw, stays beside the new route), so there the old goes first:
// for that moment the table's closing route holds.
func (k *Kernel) replaceRoute(hops, old []egress.Route) error {
	if hops[0].Family() == egress.IPv6 {
		if err := k.deleteAnyRoute(old); err != nil {
			return err
		}
		return k.AddRoute(hops...)
	}
	err := k.rt().RouteReplace(fromRoutes(hops))
	if errors.Is(err, unix.EEXIST) { // it is there, behind the old one (ip route prepend)
		return k.deleteAnyRoute(old)
	}
	if err != nil {
		return fmt.Errorf("replace route %s: %w", hops[0], noAnswer(err))
	}
	return nil
}

// deleteAnyRoute deletes the route with these hops, whoever has added it.
func (k *Kernel) deleteAnyRoute(hops []egress.Route) error {
	r := fromRoutes(hops)
	r.Protocol = unix.RTPROT_UNSPEC
	if err := k.rt().RouteDel(r); err != nil && !gone(err) {
		return fmt.Errorf("delete route %s: %w", hops[0], noAnswer(err))
	}
	return nil
}

// DeleteRoute deletes the route with these hops.
func (k *Kernel) DeleteRoute(hops ...egress.Route) error {
	if err := k.rt().RouteDel(fromRoutes(hops)); err != nil && !gone(err) {
		return fmt.Errorf("delete route %s: %w", hops[0], noAnswer(err))
	}
	return nil
}

// routeKey tells a route from others also where these are in several tables.
type routeKey struct {
	table uint32
	egress.RouteKey
}

func keyOf(r egress.Route) routeKey { return routeKey{r.Table, r.Key()} }

func hopsByKey(routes []egress.Route) map[routeKey][]egress.Route {
	byKey := make(map[routeKey][]egress.Route, len(routes))
	for _, r := range routes {
		byKey[keyOf(r)] = append(byKey[keyOf(r)], r)
	}
	return byKey
}

func sameHops(a, b []egress.Route) bool {
	return len(a) == len(b) && len(egress.Missing(a, b)) == 0
}
