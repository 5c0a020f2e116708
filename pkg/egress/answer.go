package egress

import "net/netip"

// Refusal is why the kernel does not route a packet.
type Refusal uint8

// The refusals that the kernel's errors tell apart.
const (
	RefusedUnreachable Refusal = iota + 1 // EHOSTUNREACH
	RefusedNoRoute                        // ENETUNREACH
	RefusedProhibited                     // EACCES
	RefusedInvalid                        // EINVAL
	RefusedReversePath                    // EXDEV; later kernels say EINVAL
)

// String says what the refusal can mean.
func (r Refusal) String() string {
	switch r {
	case RefusedUnreachable:
		return "unreachable"
	case RefusedNoRoute:
		return "no route"
	case RefusedProhibited:
		return "prohibited"
	case RefusedReversePath:
		return "dropped by the reverse path filter"
	}
	return "dropped: a blackhole route, or the reverse path filter"
}

// Answer is what the kernel's own lookup says of a packet.
type Answer struct {
	Refusal Refusal // zero: Route is the way
	Route
	LinkName string // of Route.Link
}

// agrees reports whether the answer is that of the rule and route; the zero Step is
// that none decides.
func (a Answer) agrees(s Step) bool {
	switch a.Refusal {
	case 0:
		return s.Rule.Table == a.Table && s.Route.Type == a.Type
	case RefusedUnreachable:
		return s.Route.Type == Unreachable
	case RefusedProhibited:
		return s.Route.Type == Prohibit
	case RefusedNoRoute:
		return s.Route.Type == 0
	}
	return s.Route.Type == Blackhole
}

// Marking is what the table inet egress_ip does with the first packet of a
// connection that a pod opens.
type Marking struct {
	Stands  bool   // the table is there
	Altered string // a chain of it that is not as egress-ip makes it; what it does is not known
	Element bool   // map out4 or out6 has the pod
	Chain   string // by which the mark is; empty: by none
	Cluster bool   // the destination never leaves by the link
	Set     string // which has the destination, where Cluster is true
	Mark    uint32
	ToPod   bool // the destination is an annotated pod of the node, whatever networks are the cluster's
	Guarded bool // what is marked for a link leaves by it, with an egress address, or is dropped
	Known   bool // map guard4 or guard6 has the pod, so also what has no link's mark is
}

// Translation is what the table inet egress_ip does with the source of a packet
// that leaves by a link.
type Translation struct {
	Altered string // as in Marking
	// Source is the new one; zero: this table does not translate.
	Source netip.Addr
}
