package kernel

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/egress-ip/egress-ip/pkg/egress"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// refusals are what the errors of a lookup say of the packet: what kind of route
// refuses it, or that none is there. IPv4's reverse path filter says EXDEV, or,
// later (6.18), EINVAL, as a blackhole does.
var refusals = map[unix.Errno]egress.Refusal{
	unix.EHOSTUNREACH: egress.RefusedUnreachable,
	unix.ENETUNREACH:  egress.RefusedNoRoute,
	unix.EACCES:       egress.RefusedProhibited,
	unix.EINVAL:       egress.RefusedInvalid,
	unix.EXDEV:        egress.RefusedReversePath,
}

// Lookup asks the kernel which way it routes a packet. Nothing is sent.
func (k *Kernel) Lookup(p egress.Packet) (egress.Answer, error) {
	var attributes []*nl.RtAttr
	if p.Mark != 0 {
		attributes = append(attributes, nl.NewRtAttr(unix.RTA_MARK, native(p.Mark)))
	}
	if p.In != "lo" {
		in, err := k.rt().LinkByName(p.In)
		if err != nil {
			return egress.Answer{}, fmt.Errorf("read link %s: %w", p.In, err)
		}
		attributes = append(attributes, nl.NewRtAttr(unix.RTA_IIF, native(uint32(in.Attrs().Index))))
	}
	if p.Source.IsValid() {
		attributes = append(attributes, nl.NewRtAttr(unix.RTA_SRC, p.Source.AsSlice()))
	}
	answer, err := k.lookup(p.To, 0, attributes...)
	if err != nil || answer.Link == 0 {
		return answer, err
	}
	answer.LinkName, err = k.Name(answer.Link)
	return answer, err
}

// lookup asks for the route of a packet, or, with RTM_F_FIB_MATCH, for the one of a
// table that it takes, of which the first hop counts.
func (k *Kernel) lookup(to netip.Addr, flags uint32, attributes ...*nl.RtAttr) (egress.Answer, error) {
	hops, refusal, err := k.hopsTo(to, flags, attributes...)
	if err != nil || refusal != 0 {
		return egress.Answer{Refusal: refusal}, err
	}
	hops[0].From = netip.Prefix{} // the packet's, as asked
	return egress.Answer{Route: hops[0]}, nil
}

func (k *Kernel) hopsTo(to netip.Addr, flags uint32, attributes ...*nl.RtAttr) ([]egress.Route, egress.Refusal, error) {
	req, err := k.routeRequest(unix.RTM_GETROUTE, 0)
	if err != nil {
		return nil, 0, err
	}
	msg := &nl.RtMsg{RtMsg: unix.RtMsg{Family: uint8(familyOf(to)), Dst_len: uint8(to.BitLen()), Flags: flags}}
	if to.Is4() {
		msg.Flags |= unix.RTM_F_LOOKUP_TABLE // or it names main, whichever it is; IPv6 knows no such flag
	}
	req.AddData(msg)
	req.AddData(nl.NewRtAttr(unix.RTA_DST, to.AsSlice()))
	for _, a := range attributes {
		if a.Type == unix.RTA_SRC {
			msg.Src_len = uint8(to.BitLen())
		}
		req.AddData(a)
	}
	found, err := k.parseRoutes(req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWROUTE))
	var errno unix.Errno
	if errors.As(err, &errno) && refusals[errno] != 0 {
		return nil, refusals[errno], nil
	}
	if err != nil {
		return nil, 0, fmt.Errorf("look up the route to %s: %w", to, err)
	}
	for _, r := range found {
		if len(r.hops) > 0 {
			return r.hops, 0, nil
		}
	}
	return nil, 0, fmt.Errorf("look up the route to %s: the answer is not one that egress-ip can read (an encapsulation?)", to)
}

// LinkTo returns the name of the link by which the node reaches a pod of its own;
// ok is false where it only has a default route to it, or none.
func (k *Kernel) LinkTo(pod netip.Addr) (name string, ok bool, err error) {
	answer, err := k.lookup(pod, unix.RTM_F_FIB_MATCH)
	if err != nil || answer.Refusal != 0 || answer.Type != egress.Unicast || answer.Dst.Bits() == 0 {
		return "", false, err
	}
	name, err = k.Name(answer.Link)
	return name, err == nil, err
}

// DefaultLinks returns the indexes of the links by which the node reaches an address, as
// those of its default route. They are none where a route refuses it.
func (k *Kernel) DefaultLinks(to netip.Addr) ([]int, error) {
	hops, _, err := k.hopsTo(to, unix.RTM_F_FIB_MATCH)
	if err != nil {
		return nil, err
	}
	var links []int
	for _, hop := range hops {
		if hop.Type == egress.Unicast {
			links = append(links, hop.Link)
		}
	}
	return links, nil
}

// AllRules returns every rule of a family, in the kernel's order.
func (k *Kernel) AllRules(f egress.Family) ([]egress.PolicyRule, error) {
	all, err := k.rules(f, anyRule)
	if err != nil {
		return nil, err
	}
	rules := make([]egress.PolicyRule, 0, len(all))
	for _, r := range all {
		rules = append(rules, r.PolicyRule)
	}
	return rules, nil
}
