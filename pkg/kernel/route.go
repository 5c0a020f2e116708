package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/egress-ip/egress-ip/pkg/egress"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
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

// OurRoutes returns the routes, of any table, that may be egress-ip's and are of one type.
func (k *Kernel) OurRoutes(f egress.Family, of egress.RouteType) ([]egress.Route, error) {
	return k.routes(f, routeQuery{typ: of}, func(r routeMessage) bool { return ourRoute(r, 0) })
}

// TableRoutes returns the routes of a link's table that egress-ip put there, or that have the
// place of one that is wanted; and those that are somebody else's. With link 0 it is not
// known which link's table it is.
func (k *Kernel) TableRoutes(f egress.Family, table uint32, link int, wanted map[egress.RouteKey]bool) (ours, others []egress.Route, err error) {
	return k.tableRoutes(f, routeQuery{table: table}, link, wanted)
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
	return hopsOf(all, isOurs), hopsOf(all, func(r routeMessage) bool { return !isOurs(r) }), nil
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

// routeQuery says which routes the kernel is asked for; zero fields ask for any. The kernel filters
// by table, link and type: a node may have 100,000 routes.
type routeQuery struct {
	table uint32
	link  int
	typ   egress.RouteType
	pods  map[netip.Addr]bool // nil: all; else throws of other pods' addresses are left out: there may be thousands
}

// leavesOut looks no further into a message than it must.
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

func (k *Kernel) dumpRoutes(f egress.Family, of routeQuery) ([]routeMessage, error) {
	req, err := k.routeRequest(unix.RTM_GETROUTE, unix.NLM_F_DUMP)
	if err != nil {
		return nil, err
	}
	req.AddData(&nl.RtMsg{RtMsg: unix.RtMsg{Family: uint8(family(f)), Type: uint8(of.typ)}})
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

// routeMessage is a route as it was read. The library reads no route's source, and takes one with an
// encapsulation that it does not know for one without.
type routeMessage struct {
	hops     []egress.Route // none: it has an encapsulation
	protocol uint8
	clone    bool // the answer for a packet, no route of a table
	// nextHop is the ID of the next hop object that the one hop is to be read from; 0:
	// the message itself says all.
	nextHop uint32
}

// parseRoutes reads an answer with routes.
func (k *Kernel) parseRoutes(messages [][]byte, err error) ([]routeMessage, error) {
	if err != nil {
		return nil, err
	}
	routes := make([]routeMessage, 0, len(messages))
	objects := map[uint32]nextHopObject{}
	for _, m := range messages {
		r, err := parseRoute(m)
		if err != nil {
			return nil, fmt.Errorf("an answer that cannot be read: %w", err)
		}
		if r.nextHop != 0 {
			if r.hops, err = k.resolve(objects, r.nextHop, r.hops[0]); err != nil {
				return nil, err
			}
		}
		routes = append(routes, r)
	}
	return routes, nil
}

// routeFields are what the attributes of a route, or of one hop of it, say.
type routeFields struct {
	egress.Route
	dst, from    netip.Addr
	several      []byte // the hops of a multipath route
	nextHop      uint32 // the ID of a next hop object
	encapsulated bool
}

// parseRoute reads a route (struct rtmsg and RTA_*, linux/rtnetlink.h). Hops that a route of ours cannot
// say again, those with an encapsulation, are left out.
func parseRoute(m []byte) (routeMessage, error) {
	if len(m) < unix.SizeofRtMsg {
		return routeMessage{}, fmt.Errorf("a route of %d bytes", len(m))
	}
	header := nl.DeserializeRtMsg(m)
	r := routeFields{Route: egress.Route{
		Table: uint32(header.Table), TOS: header.Tos, Type: egress.RouteType(header.Type), Weight: 1,
		OnLink: header.Flags&unix.RTNH_F_ONLINK != 0,
	}}
	// What has no destination, or no source, is for all.
	r.dst = egress.IPv4.Default().Addr()
	if header.Family == unix.AF_INET6 {
		r.dst = egress.IPv6.Default().Addr()
	}
	r.from = r.dst
	if err := r.read(m[unix.SizeofRtMsg:]); err != nil {
		return routeMessage{}, err
	}
	r.Dst = netip.PrefixFrom(r.dst, int(header.Dst_len))
	if header.Src_len != 0 {
		r.From = netip.PrefixFrom(r.from, int(header.Src_len))
	}
	parsed := routeMessage{protocol: header.Protocol, clone: header.Flags&unix.RTM_F_CLONED != 0}
	var err error
	switch {
	case r.Type != egress.Unicast:
		r.Link, r.NextHop, r.OnLink = 0, netip.Addr{}, false // IPv6 hangs those on lo
		parsed.hops = []egress.Route{r.Route}
	case r.several != nil:
		parsed.hops, err = r.hops()
	case !r.encapsulated:
		parsed.hops = []egress.Route{r.Route}
		if r.Link == 0 {
			parsed.nextHop = r.nextHop
		}
	}
	return parsed, err
}

const rtaNextHopID = 30 // RTA_NH_ID

func (r *routeFields) read(b []byte) error {
	a := attributes{left: b}
	for a.next() {
		switch a.typ {
		case unix.RTA_DST:
			r.dst = a.addr()
		case unix.RTA_SRC:
			r.from = a.addr()
		case unix.RTA_TABLE:
			r.Table = a.uint32()
		case unix.RTA_PRIORITY:
			r.Metric = a.uint32()
		case unix.RTA_METRICS:
			metrics := attributes{left: a.data}
			for metrics.next() {
				switch metrics.typ {
				case unix.RTAX_MTU:
					r.MTU = metrics.uint32()
				case unix.RTAX_LOCK:
					r.MTULock = metrics.uint32() == 1<<unix.RTAX_MTU
				}
			}
			a.err = errors.Join(a.err, metrics.err)
		case rtaNextHopID:
			r.nextHop = a.uint32()
		case unix.RTA_OIF:
			r.Link = int(a.uint32())
		case unix.RTA_MULTIPATH:
			r.several = a.data
		case unix.RTA_VIA: // an IPv6 next hop of an IPv4 route: a family, and the address
			a.data = a.data[min(2, len(a.data)):]
			fallthrough
		case unix.RTA_GATEWAY:
			if hop := a.addr(); hop.IsValid() {
				r.NextHop = hop
			}
		case unix.RTA_ENCAP_TYPE:
			r.encapsulated = true
		}
	}
	return a.err
}

// hops reads the hops of a multipath route (struct rtnexthop, linux/rtnetlink.h).
func (r routeFields) hops() (hops []egress.Route, err error) {
	for left := r.several; len(left) >= unix.SizeofRtNexthop; {
		length := int(binary.NativeEndian.Uint16(left))
		if length < unix.SizeofRtNexthop || length > len(left) {
			return nil, fmt.Errorf("a next hop of %d bytes in %d", length, len(left))
		}
		hop := r
		hop.OnLink, hop.Weight = left[2]&unix.RTNH_F_ONLINK != 0, left[3]+1
		hop.Link = int(binary.NativeEndian.Uint32(left[4:]))
		if err := hop.read(left[unix.SizeofRtNexthop:length]); err != nil {
			return nil, err
		}
		if !hop.encapsulated {
			hops = append(hops, hop.Route)
		}
		left = left[min((length+unix.RTNH_ALIGNTO-1)&^(unix.RTNH_ALIGNTO-1), len(left)):]
	}
	return hops, nil
}

// nextHopObject is a next hop, or a group of them, which a route may name in place of a link and a
// gateway (`ip nexthop`). As long as net.ipv4.nexthop_compat_mode is 1 the kernel says both, for
// IPv6 too; with 0 only the object.
type nextHopObject struct {
	egress.Route // its link, next hop and onlink
	encapsulated bool
	group        []nextHopShare
}

// nextHopShare is a member of a group.
type nextHopShare struct {
	id     uint32
	weight uint8
}

// resolve returns the hops of a route that names a next hop object, and is like this one otherwise.
func (k *Kernel) resolve(objects map[uint32]nextHopObject, id uint32, route egress.Route) (hops []egress.Route, err error) {
	object, ok := objects[id]
	if !ok {
		if object, err = k.readNextHopObject(id); err != nil {
			return nil, fmt.Errorf("read next hop object %d: %w", id, err)
		}
		objects[id] = object
	}
	for _, member := range object.group {
		route.Weight = member.weight
		of, err := k.resolve(objects, member.id, route)
		if err != nil {
			return nil, err
		}
		hops = append(hops, of...)
	}
	if object.Link != 0 && !object.encapsulated {
		route.Link, route.NextHop, route.OnLink = object.Link, object.NextHop, object.OnLink
		hops = append(hops, route)
	}
	return hops, nil
}

// readNextHopObject reads an object (struct nhmsg and NHA_*, linux/nexthop.h). It is zero where it does not
// exist any more: its routes do not, either.
func (k *Kernel) readNextHopObject(id uint32) (object nextHopObject, err error) {
	req, err := k.routeRequest(unix.RTM_GETNEXTHOP, 0)
	if err != nil {
		return object, err
	}
	req.AddRawData(make([]byte, unix.SizeofNhmsg))
	req.AddRawData(nl.NewRtAttr(unix.NHA_ID, native(id)).Serialize())
	found, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWNEXTHOP)
	if errors.Is(err, unix.ENOENT) || err == nil && len(found) == 0 {
		return object, nil
	}
	if err != nil {
		return object, err
	}
	m := found[0]
	const flags = 4 // where nhmsg has them
	if len(m) < unix.SizeofNhmsg {
		return object, fmt.Errorf("a next hop object of %d bytes", len(m))
	}
	object.OnLink = m[flags]&unix.RTNH_F_ONLINK != 0
	a := attributes{left: m[unix.SizeofNhmsg:]}
	for a.next() {
		switch a.typ {
		case unix.NHA_OIF:
			object.Link = int(a.uint32())
		case unix.NHA_GATEWAY:
			object.NextHop = a.addr()
		case unix.NHA_ENCAP_TYPE:
			object.encapsulated = true
		case unix.NHA_GROUP: // an array of struct nexthop_grp
			for b := a.data; len(b) >= unix.SizeofNexthopGrp; b = b[unix.SizeofNexthopGrp:] {
				object.group = append(object.group, nextHopShare{id: binary.NativeEndian.Uint32(b), weight: b[4] + 1})
			}
		}
	}
	return object, a.err
}

// setRoutes turns have into want: what is new or changed is written in want's
// order, and what is no longer wanted is deleted after that.
func (k *Kernel) setRoutes(want, have []egress.Route) error {
	old, wanted := hopsByKey(have), hopsByKey(want)
	for _, r := range want {
		hops, before := wanted[keyOf(r)], old[keyOf(r)]
		if hops[0] != r || len(hops) == len(before) && len(egress.Missing(hops, before)) == 0 {
			continue
		}
		write := k.addRoute
		if len(before) > 0 {
			write = func(hops []egress.Route) error { return k.replaceRoute(hops, before) }
		}
		if err := write(hops); err != nil {
			return err
		}
	}
	for _, r := range have {
		hops := old[keyOf(r)]
		if _, keep := wanted[keyOf(r)]; keep || hops[0] != r {
			continue
		}
		if err := k.deleteRoute(hops, unix.RTPROT_KERNEL); err != nil {
			return err
		}
	}
	return nil
}

func (k *Kernel) addRoute(hops []egress.Route) error {
	if err := k.rt().RouteAdd(fromHops(hops)); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add route %s: %w", hops[0], noAnswer(err))
	}
	return nil
}

// replaceRoute changes a route in place, whoever has added it. IPv6 replaces only like by like (a
// multipath, or a throw, stays beside the new route), so there the old goes first:
// for that moment the table's closing route holds.
func (k *Kernel) replaceRoute(hops, old []egress.Route) error {
	if hops[0].Family() == egress.IPv6 {
		if err := k.deleteRoute(old, unix.RTPROT_UNSPEC); err != nil {
			return err
		}
		return k.addRoute(hops)
	}
	err := k.rt().RouteReplace(fromHops(hops))
	if errors.Is(err, unix.EEXIST) { // it is there, behind the old one (ip route prepend)
		return k.deleteRoute(old, unix.RTPROT_UNSPEC)
	}
	if err != nil {
		return fmt.Errorf("replace route %s: %w", hops[0], noAnswer(err))
	}
	return nil
}

// deleteRoute deletes the route with these hops, of one protocol, or of any.
func (k *Kernel) deleteRoute(hops []egress.Route, protocol netlink.RouteProtocol) error {
	r := fromHops(hops)
	r.Protocol = protocol
	if err := k.rt().RouteDel(r); err != nil && !gone(err) {
		return fmt.Errorf("delete route %s: %w", hops[0], noAnswer(err))
	}
	return nil
}

// fromHops returns the route that has these hops, which all have one key.
func fromHops(hops []egress.Route) *netlink.Route {
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
	for _, h := range hops {
		hop := &netlink.NexthopInfo{LinkIndex: h.Link, Hops: int(h.Weight) - 1}
		switch {
		case !h.NextHop.IsValid():
		case h.NextHop.Is6() && h.Family() == egress.IPv4:
			hop.Via = &netlink.Via{AddrFamily: unix.AF_INET6, Addr: h.NextHop.AsSlice()}
		default:
			hop.Gw = h.NextHop.AsSlice()
		}
		if h.OnLink {
			hop.Flags = unix.RTNH_F_ONLINK
		}
		r.MultiPath = append(r.MultiPath, hop)
	}
	if len(hops) == 1 {
		only := r.MultiPath[0]
		r.LinkIndex, r.Gw, r.Via, r.Flags, r.MultiPath = only.LinkIndex, only.Gw, only.Via, only.Flags, nil
	}
	return r
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
