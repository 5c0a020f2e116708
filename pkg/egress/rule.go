package egress

import (
	"fmt"
	"iter"
	"math"
	"net/netip"
	"slices"
	"strings"
)

// Rule is a policy routing rule, ours or anybody's. What has none of Table, VRF, Goto and Refuses
// does nothing: it is where others go to.
type Rule struct {
	Priority   uint32
	Family     Family
	Not        bool         // matches what the rest does not
	From, To   netip.Prefix // zero: all
	Mark, Mask uint32       // Mask 0: any mark
	In, Out    string       // links; empty: any; In "lo": packets that the node itself sends
	More       string       // selectors that Matches does not know, as `ip rule` prints them
	Table      uint32
	VRF        bool      // the table is that of the VRF by which the packet comes or leaves, if any
	MinBits    int       // a route of the table with a shorter prefix does not count
	Goto       uint32    // a priority
	Refuses    RouteType // Blackhole, Unreachable or Prohibit
}

// The kernel's own tables, RT_TABLE_*.
const (
	DefaultTable = 253
	MainTable    = 254
	LocalTable   = 255
)

// TableName is what `ip` calls a table.
func TableName(table uint32) string {
	switch table {
	case LocalTable:
		return "local"
	case MainTable:
		return "main"
	case DefaultTable:
		return "default"
	}
	return fmt.Sprint(table)
}

// String gives the rule as `ip rule` prints it.
func (r Rule) String() string {
	words := []string{fmt.Sprintf("%d:", r.Priority)}
	add := func(is bool, format string, args ...any) {
		if is {
			words = append(words, fmt.Sprintf(format, args...))
		}
	}
	add(r.Not, "not")
	add(true, "from %s", selector(r.From))
	add(r.To.IsValid(), "to %s", selector(r.To))
	if r.Mask != 0 {
		mark := "0"
		if r.Mark != 0 {
			mark = fmt.Sprintf("%#x", r.Mark)
		}
		if r.Mask != math.MaxUint32 {
			mark += fmt.Sprintf("/%#x", r.Mask)
		}
		add(true, "fwmark %s", mark)
	}
	add(r.In != "", "iif %s", r.In)
	add(r.Out != "", "oif %s", r.Out)
	add(r.More != "", "%s", r.More)
	switch {
	case r.Table != 0:
		add(true, "lookup %s", TableName(r.Table))
	case r.VRF:
		add(true, "lookup [l3mdev-table]")
	case r.Goto != 0:
		add(true, "goto %d", r.Goto)
	case r.Refuses != 0:
		add(true, "%s", r.Refuses)
	default:
		add(true, "nop")
	}
	add(r.MinBits != 0, "suppress_prefixlength %d", r.MinBits-1)
	return strings.Join(words, " ")
}

func selector(p netip.Prefix) string {
	switch {
	case !p.IsValid():
		return "all"
	case p.IsSingleIP():
		return p.Addr().String()
	}
	return p.String()
}

// Packet is what policy routing looks at in the first packet of a connection that
// a pod opens, behind all of nftables' prerouting.
type Packet struct {
	Source netip.Addr // zero: not known
	To     netip.Addr
	In     string // the link on the node by which it comes; "lo": the node itself sends it
	Mark   uint32
}

// Matches reports whether the kernel applies the rule to a packet that the node
// forwards. A rule with selectors that it does not know is taken not to match.
func (r Rule) Matches(p Packet) bool { return r.More == "" && r.MayMatch(p) }

// MayMatch is Matches, but a selector that it does not know is taken to match.
func (r Rule) MayMatch(p Packet) bool {
	matches := (!r.From.IsValid() || r.From.Contains(p.Source)) &&
		(!r.To.IsValid() || r.To.Contains(p.To)) &&
		(p.Mark^r.Mark)&r.Mask == 0 &&
		(r.In == "" || r.In == p.In) &&
		r.Out == "" // which link it leaves by is not known yet
	if r.Not {
		return !matches || r.More != ""
	}
	return matches
}

// Visited returns the rules that a packet meets, in order, as long as no table has
// an answer. Rules are in the kernel's order.
func Visited(rules []Rule, p Packet) []Rule {
	var visited []Rule
	for i := 0; i < len(rules); i++ {
		r := rules[i]
		if !r.Matches(p) {
			continue
		}
		visited = append(visited, r)
		// The kernel takes only those ahead; without one it goes on with the next.
		if to := slices.IndexFunc(rules, func(t Rule) bool { return t.Priority == r.Goto }); to > i {
			i = to - 1
		}
	}
	return visited
}

// Priorities are those of the rules of one rulePriority, see DESIGN section 2.
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

// skipRules let every packet that nftables has classified, and the node's own,
// pass behind the source rules, so that it does not walk that list; and mark its
// end. The order is that in which they are to be added.
func (a Attachment) skipRules(family Family) []Rule {
	at := PrioritiesAround(a.RulePriority)
	return append([]Rule{
		{Priority: at.Behind, Family: family},
		{Priority: at.Skip, Family: family, Mask: a.MarkMask, Not: true, Goto: at.Behind},
		{Priority: at.Skip, Family: family, In: "lo", Goto: at.Behind},
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
	return Rule{Priority: a.RulePriority, Family: f.Family(), From: Host(f.Pod), Table: f.Table}
}

// SharedRules returns the rules that a flow needs and other pods may, too, in the
// order in which to add them.
func (a Attachment) SharedRules(f Flow) []Rule {
	return slices.Concat(a.skipRules(f.Family()), []Rule{a.LinkRule(f)}, a.vrfRules(f))
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

// SourcePriorities returns the priorities of source rules around which there are rules of
// egress-ip, by their rule `not from all fwmark 0/.. goto ..`, which nobody
// else has. So what is left of attachments that nothing records is found.
func SourcePriorities(rules []Rule) []uint32 {
	var priorities []uint32
	for _, r := range rules {
		if r.Not && r.Mask != 0 && r.Mark == 0 && r.Goto > 1 && r.Priority == PrioritiesAround(r.Goto-1).Skip {
			priorities = append(priorities, r.Goto-1)
		}
	}
	return priorities
}

// Ours returns the rules that are around one of the priorities and look like ours
// there: the kernel's own, which have its protocol too, may share a priority with them.
func Ours(rules []Rule, priorities []uint32) []Rule {
	var ours, seconds []Rule
	for _, r := range rules {
		if r.MinBits == 1 {
			seconds = append(seconds, r)
		}
	}
	for _, r := range rules {
		if slices.ContainsFunc(priorities, func(p uint32) bool { return r.isAt(PrioritiesAround(p)) }) ||
			slices.ContainsFunc(seconds, r.isBefore) ||
			r.MinBits == 1 && slices.ContainsFunc(rules, func(first Rule) bool { return first.isBefore(r) }) {
			ours = append(ours, r)
		}
	}
	return ours
}

func (r Rule) isAt(at Priorities) bool {
	return r.Priority == at.Link && r.Mask != 0 && r.Table != 0 ||
		r.Priority == at.Skip && r.Goto != 0 ||
		r.Priority == at.Skip && r.Table == MainTable && r.MinBits == shortestSpecific ||
		r.Priority == at.Source && r.From.IsSingleIP() && r.Table != 0 ||
		r == Rule{Priority: at.Behind, Family: r.Family}
}

// isBefore reports whether the rule is the first of a link in a VRF, and the other the second
// (see [Attachment.vrfRules]). They are known by each other, wherever the rule for VRFs is today.
func (r Rule) isBefore(second Rule) bool {
	return r.Mask != 0 && r.Table > LocalTable &&
		second == Rule{Priority: r.Priority + 1, Family: r.Family, Mark: r.Mark, Mask: r.Mask, Table: MainTable, MinBits: 1}
}
