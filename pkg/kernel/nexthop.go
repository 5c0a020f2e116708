package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/egress-ip/egress-ip/pkg/egress"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// A route may name a next hop object (`ip nexthop`) in place of a link and a gateway. As
// long as net.ipv4.nexthop_compat_mode is 1 the kernel says both, for IPv6 too; with 0
// only the object.

// rtaNextHopID is RTA_NH_ID (linux/rtnetlink.h).
const rtaNextHopID = 30

// nextHopObjects are those that were read so far, by ID.
type nextHopObjects map[uint32]nextHopObject

// nextHopObject is a next hop, or a group of them.
type nextHopObject struct {
	link         int
	gateway      netip.Addr
	onLink       bool
	encapsulated bool
	group        []nextHopShare
}

// nextHopShare is a member of a group.
type nextHopShare struct {
	id     uint32
	weight uint8
}

// resolve returns the hops of a route whose message names a next hop object.
func (k *Kernel) resolve(objects nextHopObjects, r routeMessage) ([]egress.Route, error) {
	object, err := k.nextHopObject(objects, r.nextHop)
	if err != nil {
		return nil, err
	}
	members := object.group
	if members == nil {
		members = []nextHopShare{{r.nextHop, 1}}
	}
	var hops []egress.Route
	for _, member := range members {
		object, err := k.nextHopObject(objects, member.id)
		if err != nil {
			return nil, err
		}
		if object.link == 0 || object.encapsulated {
			continue
		}
		hop := r.hops[0]
		hop.Link, hop.NextHop, hop.OnLink, hop.Weight = object.link, object.gateway, object.onLink, member.weight
		hops = append(hops, hop)
	}
	return hops, nil
}

// nextHopObject returns the object with this ID. It is zero where it has gone meanwhile:
// its routes have gone with it.
func (k *Kernel) nextHopObject(objects nextHopObjects, id uint32) (nextHopObject, error) {
	if object, ok := objects[id]; ok {
		return object, nil
	}
	req, err := k.routeRequest(unix.RTM_GETNEXTHOP, 0)
	if err != nil {
		return nextHopObject{}, err
	}
	req.AddRawData(make([]byte, unix.SizeofNhmsg))
	req.AddRawData(nl.NewRtAttr(unix.NHA_ID, native(id)).Serialize())
	found, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWNEXTHOP)
	if errors.Is(err, unix.ENOENT) {
		found, err = nil, nil
	}
	var object nextHopObject
	for _, m := range found {
		object, err = parseNextHopObject(m)
	}
	if err != nil {
		return nextHopObject{}, fmt.Errorf("read next hop object %d: %w", id, err)
	}
	objects[id] = object
	return object, nil
}

// parseNextHopObject reads a struct nhmsg and its attributes (linux/nexthop.h).
func parseNextHopObject(m []byte) (nextHopObject, error) {
	const flags = 4 // where nhmsg has them
	if len(m) < unix.SizeofNhmsg {
		return nextHopObject{}, fmt.Errorf("a next hop object of %d bytes", len(m))
	}
	object := nextHopObject{onLink: m[flags]&unix.RTNH_F_ONLINK != 0}
	a := attributes{left: m[unix.SizeofNhmsg:]}
	for a.next() {
		switch a.typ {
		case unix.NHA_OIF:
			object.link = int(a.uint32())
		case unix.NHA_GATEWAY:
			object.gateway = a.addr()
		case unix.NHA_ENCAP_TYPE:
			object.encapsulated = true
		case unix.NHA_GROUP:
			object.group = parseNextHopGroup(a.data)
		}
	}
	return object, a.err
}

// parseNextHopGroup reads an array of struct nexthop_grp.
func parseNextHopGroup(b []byte) []nextHopShare {
	group := []nextHopShare{}
	for ; len(b) >= unix.SizeofNexthopGrp; b = b[unix.SizeofNexthopGrp:] {
		group = append(group, nextHopShare{id: binary.NativeEndian.Uint32(b), weight: b[4] + 1})
	}
	return group
}
