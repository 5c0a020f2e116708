package egress

import (
	"fmt"
	"iter"
	"math"
	"net/netip"
	"slices"
	"strings"
)

// Rule is a policy routing rule of ours. With neither Table nor Goto it does
// nothing: it is where others go to.
type Rule struct {
	Priority   uint32
	Family     Family
	From       netip.Addr   // zero: from all
	To         netip.Prefix // zero: to all
	Mark, Mask uint32       // Mask 0: any mark
	Not        bool         // matches what the rest does not
	Local      bool         // only packets that the node itself sends (iif lo)
	Table      uint32
	MinBits    int    // a route of the table with a shorter prefix does not count
	Goto       uint32 // a priority
}

// String gives the rule as `ip rule` prints it.
func (r Rule) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d:", r.Priority)
	if r.Not {
		b.WriteString(" not")
	}
	if r.From.IsValid() {
		fmt.Fprintf(&b, " from %s", r.From)
	} else {
		b.WriteString(" from all")
	}
	if r.To.IsValid() {
		fmt.Fprintf(&b, " to %s", selector(r.To))
	}
	switch {
	case r.Mask == math.MaxUint32:
		fmt.Fprintf(&b, " fwmark %s", mark(r.Mark))
	case r.Mask != 0 && r.Mark == 0:
		fmt.Fprintf(&b, " fwmark 0/%#x", r.Mask)
	case r.Mask != 0:
		fmt.Fprintf(&b, " fwmark %#x/%#x", r.Mark, r.Mask)
	}
	if r.Local {
		b.WriteString(" iif lo")
	}
	switch {
	case r.Table == MainTable:
		b.WriteString(" lookup main")
	case r.Table != 0:
		fmt.Fprintf(&b, " lookup %d", r.Table)
	case r.Goto != 0:
		fmt.Fprintf(&b, " goto %d", r.Goto)
	default:
		b.WriteString(" nop")
	}
	if r.MinBits != 0 {
		fmt.Fprintf(&b, " suppress_prefixlength %d", r.MinBits-1)
	}
	return b.String()
}

// Priorities are where the rules of one rulePriority stand, see DESIGN section 2.
type Priorities struct {
	Link, Skip, Source, Behind uint32
}

// PrioritiesAround returns the priorities around that of the source rules, 3 or more.
// Below that rules share priorities: versions before this one had such rules, and
// records of them may be left, which a DEL still needs.
func PrioritiesAround(source uint32) Priorities {
	return Priorities{
		Link: source - min(source, 2), Skip: max(source-1, 1), Source: source, Behind: source + 1,
	}
}

// LinkRule sends packets of egress connections into their link's table.
func (a Attachment) LinkRule(f Flow) Rule {
	return Rule{
		Priority: PrioritiesAround(a.RulePriority).Link, Family: f.Family(),
		Mark: f.Mark, Mask: a.MarkMask, Table: f.Table,
	}
}

// vrfRules do for a link in a VRF what the others do behind the rule for VRFs, which would
// look up all that comes by the VRF in its table, where the way to pods is not. What leaves
// by the link has its table; what the table throws, answers to pods, main has, but for its
// default route: a pod in the same VRF is in the VRF's table.
func (a Attachment) vrfRules(f Flow) []Rule {
	if f.VRFRule < 3 {
		return nil // there is no room for them
	}
	first, second := a.LinkRule(f), a.LinkRule(f)
	first.Priority = f.VRFRule - 2
	second.Priority, second.Table, second.MinBits = f.VRFRule-1, MainTable, 1
	return []Rule{first, second}
}

// SkipRules let every packet that nftables has classified, and the node's own,
// pass behind the source rules, so that nobody walks that list; and mark its
// end. The order is that in which they are to be added.
func (a Attachment) SkipRules(family Family) []Rule {
	at := PrioritiesAround(a.RulePriority)
	return append([]Rule{
		{Priority: at.Behind, Family: family},
		{Priority: at.Skip, Family: family, Mask: a.MarkMask, Not: true, Goto: at.Behind},
		{Priority: at.Skip, Family: family, Local: true, Goto: at.Behind},
	}, a.clusterRules(family)...)
}

// clusterRules let what has no mark pass behind the source rules if it is for the
// cluster. Those are IPv4's look-ups of the way back: to the source of a packet, and
// with its mark only where the link by which it came is an uplink (see [Uplinks]). A packet
// of the cluster's own comes by any link. Where the configuration names no cluster
// networks, they are whatever main leads to, and main itself is asked.
func (a Attachment) clusterRules(family Family) []Rule {
	if family != IPv4 {
		return nil // it looks no way back up
	}
	at := PrioritiesAround(a.RulePriority)
	named := a.clusterOf(family)
	if len(named) == 0 {
		return []Rule{{Priority: at.Skip, Family: family, Mask: math.MaxUint32, Table: MainTable, MinBits: shortestSpecific}}
	}
	var rules []Rule
	for _, c := range named {
		r := Rule{Priority: at.Skip, Family: family, Goto: at.Behind}
		if c.Bits() > 0 {
			r.To = c
		}
		if !slices.Contains(rules, r) {
			rules = append(rules, r)
		}
	}
	return rules
}

// shortestSpecific is the length of the shortest prefix that says where something is: what
// is shorter is a part of a default route. VPNs write 0.0.0.0/1 and 128.0.0.0/1, or 2000::/3,
// to take precedence over the default route without replacing it.
const shortestSpecific = 8

// SourceRule is what a person sees of the flow, and what holds when the
// nftables table is gone.
func (a Attachment) SourceRule(f Flow) Rule {
	return Rule{Priority: a.RulePriority, Family: f.Family(), From: f.Pod, Table: f.Table}
}

// SharedRules returns the rules that a flow needs and other pods may, too, in the
// order in which to add them.
func (a Attachment) SharedRules(f Flow) []Rule {
	return slices.Concat(a.SkipRules(f.Family()), []Rule{a.LinkRule(f)}, a.vrfRules(f))
}

// Rules returns all rules that a flow needs, in the order in which to add them.
func (a Attachment) Rules(f Flow) []Rule { return append(a.SharedRules(f), a.SourceRule(f)) }

// Marks yields the marks that a mask has for links, lowest first. The highest
// value, the mask itself, is that of packets that are none of ours.
func Marks(mask uint32) iter.Seq[uint32] {
	return func(yield func(uint32) bool) {
		lowest := mask & -mask
		for mark := lowest; mark != mask; mark += lowest {
			if !yield(mark) {
				return
			}
		}
	}
}
