package nettest

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// Route is a unicast route. For others use Netlink.
type Route struct {
	Dst    string // prefix like "192.0.2.0/24"; "0.0.0.0/0" and "::/0" are the defaults
	Via    string // next hop; empty: Dst is on the link
	Link   string // name; may be empty with Via
	Metric int    // 0: the kernel's choice, 0 for IPv4 and 1024 for IPv6
	Table  int    // 0: main
	OnLink bool   // Via is on the link though no address of the link says so
}

// AddRoute adds the route, beside others to the same destination with another metric.
func (n *Namespace) AddRoute(t T, route Route) {
	t.Helper()
	r, err := n.kernelRoute(t, route)
	if err == nil {
		err = n.netlink.RouteAdd(r)
	}
	if err != nil {
		t.Fatalf("namespace %s: add route %+v: %v", n.name, route, err)
	}
}

// DeleteRoute deletes the route.
func (n *Namespace) DeleteRoute(t T, route Route) {
	t.Helper()
	r, err := n.kernelRoute(t, route)
	if err == nil {
		err = n.netlink.RouteDel(r)
	}
	if err != nil {
		t.Fatalf("namespace %s: delete route %+v: %v", n.name, route, err)
	}
}

func (n *Namespace) kernelRoute(t T, route Route) (*netlink.Route, error) {
	t.Helper()
	dst, err := netip.ParsePrefix(route.Dst)
	if err != nil {
		return nil, err
	}
	r := &netlink.Route{
		Dst:      &net.IPNet{IP: dst.Addr().AsSlice(), Mask: net.CIDRMask(dst.Bits(), dst.Addr().BitLen())},
		Priority: route.Metric,
		Table:    route.Table,
		Scope:    netlink.SCOPE_LINK,
	}
	if route.Via != "" {
		via, err := netip.ParseAddr(route.Via)
		if err != nil {
			return nil, fmt.Errorf("via: %w", err)
		}
		r.Gw, r.Scope = via.AsSlice(), netlink.SCOPE_UNIVERSE
	}
	if route.Link != "" {
		r.LinkIndex = n.Index(t, route.Link)
	}
	if route.OnLink {
		r.SetFlag(netlink.FLAG_ONLINK)
	}
	return r, nil
}
