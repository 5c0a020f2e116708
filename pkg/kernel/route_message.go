package kernel

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"github.com/egress-ip/egress-ip/pkg/egress"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// openRouteSocket opens a socket for routes, with strict checks: the kernel itself then
// filters dumps by table, link and type; a node may have 100,000 routes.
func openRouteSocket() (*nl.SocketHandle, error) {
	socket, err := openSocket(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open an rtnetlink socket: %w", err)
	}
	if err := unix.SetsockoptInt(socket.Socket.GetFd(), unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 1); err != nil {
		socket.Close()
		return nil, fmt.Errorf("ask rtnetlink for strict checks: %w", err)
	}
	return socket, nil
}

// routeQuery says which routes the kernel is asked for; zero fields ask for any.
type routeQuery struct {
	table    uint32
	link     int
	typ      egress.RouteType
	protocol uint8
	pods     map[netip.Addr]bool // nil: all; else throws of other pods' addresses are left out
}

// leavesOut looks no further into a message than it must: there may be thousands.
func (q routeQuery) leavesOut(m []byte) bool {
	if q.pods == nil || len(m) < unix.SizeofRtMsg {
		return false
	}
	header := nl.DeserializeRtMsg(m)
	if header.Type != unix.RTN_THROW || header.Protocol != unix.RTPROT_KERNEL {
		return false
	}
	a := attributes{left: m[unix.SizeofRtMsg:]}
	for a.next() {
		if a.typ == unix.RTA_DST {
			dst := a.addr()
			return int(header.Dst_len) == dst.BitLen() && !q.pods[dst]
		}
	}
	return false
}

// routeMessage is a route as it was read.
type routeMessage struct {
	hops     []egress.Route // none: it has an encapsulation
	protocol uint8
	clone    bool // the answer for a packet, no route of a table
	// nextHop is the ID of the next hop object that the one hop is to be read from; 0:
	// the message itself says all.
	nextHop uint32
}

// dumpRoutes asks the kernel for the routes of a family, which it filters.
func (k *Kernel) dumpRoutes(f egress.Family, of routeQuery) ([]routeMessage, error) {
	req, err := k.routeRequest(unix.RTM_GETROUTE, unix.NLM_F_DUMP)
	if err != nil {
		return nil, err
	}
	req.AddData(&nl.RtMsg{RtMsg: unix.RtMsg{Family: uint8(family(f)), Protocol: of.protocol, Type: uint8(of.typ)}})
	if of.table != 0 {
		req.AddData(nl.NewRtAttr(unix.RTA_TABLE, native(of.table)))
	}
	if of.link != 0 {
		req.AddData(nl.NewRtAttr(unix.RTA_OIF, native(uint32(of.link))))
	}
	var messages [][]byte
	err = req.ExecuteIter(unix.NETLINK_ROUTE, unix.RTM_NEWROUTE, func(m []byte) bool {
		if !of.leavesOut(m) {
			messages = append(messages, m)
		}
		return true
	})
	routes, err := k.parseRoutes(messages, err)
	return slices.DeleteFunc(routes, func(r routeMessage) bool {
		// A kernel without IPv6 (ipv6.disable=1) answers with routes of IPv4.
		return r.clone || len(r.hops) == 0 || r.hops[0].Family() != f
	}), err
}

// routeRequest is one to be sent by the socket for routes, opened when first asked for. The library's own requests
// do not do: they read no route's source, and take one with an encapsulation that they
// do not know for one without.
func (k *Kernel) routeRequest(message, flags int) (*nl.NetlinkRequest, error) {
	if k.routeSocket == nil {
		socket, err := openRouteSocket()
		if err != nil {
			return nil, err
		}
		k.routeSocket = socket
	}
	req := nl.NewNetlinkRequest(message, flags)
	req.Sockets = map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: k.routeSocket}
	return req, nil
}

// parseRoutes reads an answer with routes.
func (k *Kernel) parseRoutes(messages [][]byte, err error) ([]routeMessage, error) {
	if err != nil {
		return nil, err
	}
	routes := make([]routeMessage, 0, len(messages))
	objects := nextHopObjects{}
	for _, m := range messages {
		r, err := parseRoute(m)
		if err != nil {
			return nil, fmt.Errorf("an answer that cannot be read: %w", err)
		}
		if r.nextHop != 0 {
			if r.hops, err = k.resolve(objects, r); err != nil {
				return nil, err
			}
		}
		routes = append(routes, r)
	}
	return routes, nil
}

// parseRoute reads a route. Hops that a route of ours cannot say again, those with an
// encapsulation, are left out.
func parseRoute(m []byte) (routeMessage, error) {
	if len(m) < unix.SizeofRtMsg {
		return routeMessage{}, fmt.Errorf("a route of %d bytes", len(m))
	}
	header := nl.DeserializeRtMsg(m)
	r := egress.Route{
		Table: uint32(header.Table), TOS: header.Tos, Type: egress.RouteType(header.Type), Weight: 1,
		OnLink: header.Flags&unix.RTNH_F_ONLINK != 0,
	}
	// What has no destination, or no source, is for all.
	all := egress.IPv4.Default().Addr()
	if header.Family == unix.AF_INET6 {
		all = egress.IPv6.Default().Addr()
	}
	dst, from := all, all
	var several []byte
	encapsulated := false
	var object uint32
	a := attributes{left: m[unix.SizeofRtMsg:]}
	for a.next() {
		switch a.typ {
		case unix.RTA_DST:
			dst = a.addr()
		case unix.RTA_SRC:
			from = a.addr()
		case unix.RTA_TABLE:
			r.Table = a.uint32()
		case unix.RTA_PRIORITY:
			r.Metric = a.uint32()
		case unix.RTA_METRICS:
			if err := parseMetrics(a.data, &r); err != nil {
				return routeMessage{}, err
			}
		case rtaNextHopID:
			object = a.uint32()
		case unix.RTA_OIF:
			r.Link = int(a.uint32())
		case unix.RTA_MULTIPATH:
			several = a.data
		default:
			encapsulated = parseNextHop(&a, &r) || encapsulated
		}
	}
	if a.err != nil {
		return routeMessage{}, a.err
	}
	r.Dst = netip.PrefixFrom(dst, int(header.Dst_len))
	if header.Src_len != 0 {
		r.From = netip.PrefixFrom(from, int(header.Src_len))
	}
	parsed := routeMessage{protocol: header.Protocol, clone: header.Flags&unix.RTM_F_CLONED != 0}
	var err error
	switch {
	case r.Type != egress.Unicast:
		r.Link, r.NextHop, r.OnLink = 0, netip.Addr{}, false // IPv6 hangs those on lo
		parsed.hops = []egress.Route{r}
	case several != nil:
		parsed.hops, err = parseHops(several, r)
	case !encapsulated:
		parsed.hops = []egress.Route{r}
		if r.Link == 0 {
			parsed.nextHop = object
		}
	}
	return parsed, err
}

// parseMetrics reads the metrics of a route (RTAX_*).
func parseMetrics(b []byte, r *egress.Route) error {
	metrics := attributes{left: b}
	for metrics.next() {
		switch metrics.typ {
		case unix.RTAX_MTU:
			r.MTU = metrics.uint32()
		case unix.RTAX_LOCK:
			r.MTULock = metrics.uint32() == 1<<unix.RTAX_MTU
		}
	}
	return metrics.err
}

// parseNextHop reads an attribute that a route has in common with a hop of a
// multipath route, and reports whether it is one of an encapsulation.
func parseNextHop(a *attributes, r *egress.Route) (encapsulated bool) {
	hop := a.data
	switch a.typ {
	case unix.RTA_GATEWAY:
	case unix.RTA_VIA: // an IPv6 next hop of an IPv4 route: a family, and the address
		hop = hop[min(2, len(hop)):]
	case unix.RTA_ENCAP_TYPE:
		return true
	default:
		return false
	}
	if addr, ok := netip.AddrFromSlice(hop); ok {
		r.NextHop = addr
	}
	return false
}

// parseHops reads the hops of a multipath route (struct rtnexthop, linux/rtnetlink.h).
func parseHops(several []byte, route egress.Route) ([]egress.Route, error) {
	var hops []egress.Route
	for len(several) >= unix.SizeofRtNexthop {
		length := int(binary.NativeEndian.Uint16(several))
		if length < unix.SizeofRtNexthop || length > len(several) {
			return nil, fmt.Errorf("a next hop of %d bytes in %d", length, len(several))
		}
		r := route
		r.OnLink = several[2]&unix.RTNH_F_ONLINK != 0
		r.Weight = several[3] + 1
		r.Link = int(binary.NativeEndian.Uint32(several[4:]))
		encapsulated := false
		a := attributes{left: several[unix.SizeofRtNexthop:length]}
		for a.next() {
			encapsulated = parseNextHop(&a, &r) || encapsulated
		}
		if a.err != nil {
			return nil, a.err
		}
		if !encapsulated {
			hops = append(hops, r)
		}
		several = several[min((length+unix.RTNH_ALIGNTO-1)&^(unix.RTNH_ALIGNTO-1), len(several)):]
	}
	return hops, nil
}
