package egress

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"
)

// Packet is what policy routing looks at in the first packet of a connection that
// a pod opens, behind all of nftables' prerouting.
type Packet struct {
	Source netip.Addr // zero: not known
	To     netip.Addr
	In     string // the link on the node by which it comes; "lo": the node itself sends it
	Mark   uint32
}

// PolicyRule is a policy routing rule of the node, whoever's. With none of Table, VRF
// and Goto it does nothing, or refuses: what is read does not tell.
type PolicyRule struct {
	Priority   uint32
	Not        bool
	From, To   netip.Prefix // zero: all
	Mark, Mask uint32       // Mask 0: any mark
	In, Out    string       // links; empty: any
	More       string       // selectors that Matches does not know, as `ip rule` prints them
	Table      uint32
	VRF        bool   // the table is that of the VRF by which the packet comes or leaves, if any
	MinBits    int    // a route of the table with a shorter prefix does not count
	Goto       uint32 // a priority
}

// Policy returns the rule as it is read from a node.
func (r Rule) Policy() PolicyRule {
	p := PolicyRule{Priority: r.Priority, Not: r.Not, Mark: r.Mark, Mask: r.Mask, Table: r.Table, Goto: r.Goto}
	if r.From.IsValid() {
		p.From = Host(r.From)
	}
	p.To, p.MinBits = r.To, r.MinBits
	if r.Local {
		p.In = "lo"
	}
	return p
}

// Matches reports whether the kernel applies the rule to a packet that the node
// forwards. A rule with selectors that it does not know is taken not to match.
func (r PolicyRule) Matches(p Packet) bool { return r.More == "" && r.MayMatch(p) }

// MayMatch is Matches, but a selector that it does not know is taken to match.
func (r PolicyRule) MayMatch(p Packet) bool {
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
func Visited(rules []PolicyRule, p Packet) []PolicyRule {
	var visited []PolicyRule
	for i := 0; i < len(rules); i++ {
		r := rules[i]
		if !r.Matches(p) {
			continue
		}
		visited = append(visited, r)
		// The kernel takes only those ahead; without one it goes on with the next.
		if to := slices.IndexFunc(rules, func(t PolicyRule) bool { return t.Priority == r.Goto }); to > i {
			i = to - 1
		}
	}
	return visited
}

// Step is a rule that a packet meets, and what the rule's table has for it.
type Step struct {
	Rule  PolicyRule
	Route Route // zero: nothing
	Link  string
}

// Decides reports whether the packet goes no further.
func (s Step) Decides() bool {
	switch s.Route.Type {
	case 0, Throw:
		return false
	case Unreachable, Prohibit, Blackhole:
		return true
	}
	return s.Route.Dst.Bits() >= s.Rule.MinBits
}

// LongestMatch returns the route of one table that the kernel takes for a packet
// of no special TOS or source; the zero Route where none matches.
func LongestMatch(routes []Route, to netip.Addr) Route {
	var best Route
	for _, r := range routes {
		if r.TOS != 0 || r.From.IsValid() || !r.Dst.Contains(to) {
			continue
		}
		if !best.Dst.IsValid() || r.Dst.Bits() > best.Dst.Bits() ||
			r.Dst.Bits() == best.Dst.Bits() && r.Metric < best.Metric {
			best = r
		}
	}
	return best
}

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
func (r PolicyRule) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d:", r.Priority)
	if r.Not {
		b.WriteString(" not")
	}
	b.WriteString(" from " + selector(r.From))
	if r.To.IsValid() {
		b.WriteString(" to " + selector(r.To))
	}
	switch {
	case r.Mask == math.MaxUint32:
		fmt.Fprintf(&b, " fwmark %s", mark(r.Mark))
	case r.Mask != 0 && r.Mark == 0:
		fmt.Fprintf(&b, " fwmark 0/%#x", r.Mask)
	case r.Mask != 0:
		fmt.Fprintf(&b, " fwmark %#x/%#x", r.Mark, r.Mask)
	}
	for _, s := range []struct{ word, value string }{{" iif ", r.In}, {" oif ", r.Out}, {" ", r.More}} {
		if s.value != "" {
			b.WriteString(s.word + s.value)
		}
	}
	switch {
	case r.Table != 0:
		b.WriteString(" lookup " + TableName(r.Table))
	case r.VRF:
		b.WriteString(" lookup [l3mdev-table]")
	case r.Goto != 0:
		fmt.Fprintf(&b, " goto %d", r.Goto)
	}
	if r.MinBits != 0 {
		fmt.Fprintf(&b, " suppress_prefixlength %d", r.MinBits-1)
	}
	return b.String()
}

// mark is a mark as `ip` prints it.
func mark(m uint32) string {
	if m == 0 {
		return "0"
	}
	return fmt.Sprintf("%#x", m)
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
