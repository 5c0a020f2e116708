package egress

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Way is the way of the first packet of a connection that an annotated pod opens,
// and what it depends on.
type Way struct {
	Attachment
	Flow        Flow // zero: the pod has no egress in the destination's family
	Service     Service
	Packet      Packet // to the Service's backend, if there is one
	Marking     Marking
	NodeRules   []Rule // all that the node has, in the kernel's order
	Steps       []Step // those that the packet meets, to the one that decides
	Answer      Answer
	Translation Translation // by the link of the answer
	Link        Link        // the flow's; zero: it is not there
	HasAddress  bool        // the link has the egress address
}

// Service is one of IPVS, which translates its address to that of a backend: the packet's
// destination. The zero Service is none.
type Service struct {
	Address           netip.Addr
	Backend, Backends int // which of how many the packet is for, from 1
}

// Step is a rule that a packet meets, and what the rule's table has for it.
type Step struct {
	Rule  Rule
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
	Exists  bool   // the table does
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

// HasEgress reports whether the pod has egress in the destination's family.
func (w Way) HasEgress() bool { return w.Flow.Pod.IsValid() }

// Decided returns the step that decides, as far as the rules can be followed; the
// zero Step where none does.
func (w Way) Decided() Step {
	if n := len(w.Steps); n > 0 && w.Steps[n-1].Decides() {
		return w.Steps[n-1]
	}
	return Step{}
}

// Agrees reports whether the rules, as far as they can be followed, lead to the
// kernel's answer.
func (w Way) Agrees() bool { return w.Answer.agrees(w.Decided()) }

// Unfollowed returns the rules before the one that decides that may take the pod's packets
// elsewhere, by selectors that are not known here. Where the way does not agree they are all that
// may have taken this one.
func (w Way) Unfollowed() []Rule {
	var rules []Rule
	agrees, last := w.Agrees(), w.Decided().Rule
	for _, r := range w.NodeRules {
		if agrees && last.Table != 0 && r.Priority > last.Priority {
			break
		}
		if r.More != "" && r.MayMatch(w.Packet) {
			rules = append(rules, r)
		}
	}
	return rules
}

// Cluster reports whether the destination is one that never leaves by the egress
// link, and by what the kernel knows it.
func (w Way) Cluster() (by string, is bool) {
	if w.Answer.Refusal == 0 && w.Answer.Type != Unicast {
		return fmt.Sprintf("%s is the node's own", w.Packet.To), true
	}
	if w.Marking.Cluster && (w.Decided().Rule.Table != w.Flow.Table || !w.HasEgress()) {
		return fmt.Sprintf("%s is in the set %s", w.Packet.To, w.Marking.Set), true
	}
	if !w.HasEgress() {
		return "", false
	}
	for _, s := range w.Steps {
		ofCluster := slices.Contains(w.clusterRules(w.Flow.Family()), s.Rule)
		switch {
		case ofCluster && s.Rule.Goto != 0:
			return fmt.Sprintf("the rule `%s` is for it", s.Rule), true
		case ofCluster && s.Decides() && w.Answer.Link != w.Flow.Index:
			return fmt.Sprintf("main has `%s`", s.Route.Text(s.Link)), true
		case s.Rule.Table == w.Flow.Table && s.Route.Type == Throw && (w.Marking.ToPod || !w.Marking.Guarded):
			return fmt.Sprintf("table %d has `%s`", w.Flow.Table, s.Route.Text("")), true
		}
	}
	return "", false
}

func (w Way) isOurs(r Rule) bool {
	return w.HasEgress() && slices.Contains(w.Attachment.Rules(w.Flow), r)
}

func (w Way) hasRule(r Rule) bool { return slices.Contains(w.NodeRules, r) }

// Verdict says whether a packet goes as the pod's annotation says.
type Verdict struct {
	Right bool
	Text  string // a sentence: where it goes, and, if that is wrong, why, and what to do
}

// cause is a thing that is not as it should be.
type cause struct{ what, remedy string }

const resync = "run `egress-ip resync`"

// Verdict judges the way.
func (w Way) Verdict() Verdict {
	v := w.verdict()
	if w.dropped() {
		v.Text += ". There the guard drops it (chain exit of table inet egress_ip)"
	}
	return v
}

func (w Way) verdict() Verdict {
	if !w.HasEgress() {
		return Verdict{false, fmt.Sprintf("%s names no %s address, so the pod's %s packets go as a plain pod's: this one %s",
			capitalized(w.asker()), FamilyOf(w.Packet.To), FamilyOf(w.Packet.To), w.going())}
	}
	for _, chain := range []string{w.Marking.Altered, w.Translation.Altered} {
		if chain != "" {
			return Verdict{false, fmt.Sprintf("It is not known whether the packet goes as %s says (by %s as %s), because chain %s of table inet egress_ip is not as egress-ip makes it; as far as it can be read, the packet %s; %s",
				w.asker(), w.Flow.Link, w.Flow.Address, chain, w.going(), resync)}
		}
	}
	if by, is := w.Cluster(); is {
		return Verdict{true, fmt.Sprintf("As %s says, which leaves cluster destinations alone (%s): the packet %s",
			w.asker(), by, w.going())}
	}
	causes := w.causes()
	if len(causes) == 0 {
		return Verdict{true, fmt.Sprintf("As %s says: the packet %s", w.asker(), w.going())}
	}
	var whats, remedies []string
	for _, c := range causes {
		whats = append(whats, c.what)
		if !slices.Contains(remedies, c.remedy) {
			remedies = append(remedies, c.remedy)
		}
	}
	return Verdict{false, fmt.Sprintf("NOT as %s says (by %s as %s): the packet %s, because %s; %s",
		w.asker(), w.Flow.Link, w.Flow.Address, w.going(), strings.Join(whats, " and "), strings.Join(remedies, ", then "))}
}

// asker is what asks for the pod's egress.
func (w Way) asker() string { return cmp.Or(w.Origin, "the annotation") }

func capitalized(s string) string { return strings.ToUpper(s[:1]) + s[1:] }

// going says where the packet goes.
func (w Way) going() string {
	switch a := w.Answer; {
	case a.Refusal != 0:
		return fmt.Sprintf("is refused (%s)", a.Refusal)
	case a.Type != Unicast:
		return "is delivered on the node"
	case w.Translation.Source.IsValid():
		return fmt.Sprintf("leaves by %s as %s", a.LinkName, w.Translation.Source)
	case w.Packet.Source.IsValid():
		return fmt.Sprintf("leaves by %s as %s, unless somebody else masquerades", a.LinkName, w.Packet.Source)
	default:
		return "leaves by " + a.LinkName
	}
}

// source is the packet's when it leaves, as far as egress-ip translates it.
func (w Way) source() netip.Addr {
	if w.Translation.Source.IsValid() {
		return w.Translation.Source
	}
	return w.Packet.Source
}

// dropped reports whether the guard drops the packet: it is to leave the cluster by another
// link, or with another source.
func (w Way) dropped() bool {
	if _, is := w.Cluster(); is || !w.Marking.Guarded || w.Marking.ToPod || !w.HasEgress() {
		return false
	}
	unmarked := w.Packet.Mark&w.MarkMask == 0 || w.Packet.Mark&w.MarkMask == w.MarkMask
	return (w.Marking.Known || !unmarked) && (w.Answer.Link != w.Flow.Index || w.source() != w.Flow.Address)
}

// causes returns why the packet does not go as it should, in the order of its way.
func (w Way) causes() []cause {
	if w.Answer.Refusal != 0 || w.Answer.Link != w.Flow.Index {
		return w.routeCauses()
	}
	if w.Marking.Cluster {
		return []cause{{fmt.Sprintf("%s is in the set %s, and still goes by table %d", w.Packet.To, w.Marking.Set, w.Flow.Table), resync}}
	}
	var causes []cause
	if w.Translation.Source != w.Flow.Address {
		causes = append(causes, w.sourceCause())
	}
	if c, is := w.linkCause(); is {
		causes = append(causes, c)
	}
	if !w.HasAddress {
		c := cause{fmt.Sprintf("%s is not on %s (`ip address show %s`), so no answer comes back", w.Flow.Address, w.Flow.Link, w.Flow.Link), resync}
		if !w.Flow.OwnsAddress && len(w.OwnNetworks) == 0 {
			c.remedy = "add it to the link, where it was before egress-ip used it"
		}
		causes = append(causes, c)
	}
	return causes
}

func (w Way) sourceCause() cause {
	element := fmt.Sprintf("%s . %q", w.Flow.Pod, w.Flow.Link)
	switch snat := fmt.Sprintf("map snat%d of table inet egress_ip", w.Flow.Family()); {
	case !w.Marking.Exists:
		return cause{"table inet egress_ip is not there", resync}
	case w.Translation.Source.IsValid():
		return cause{fmt.Sprintf("%s has %s : %s", snat, element, w.Translation.Source), resync}
	default:
		return cause{fmt.Sprintf("%s has no element %s", snat, element), resync}
	}
}

// routeCauses says why the packet is refused, or leaves by another link.
func (w Way) routeCauses() []cause {
	if !w.Agrees() {
		return []cause{w.disagreementCause()}
	}
	if c, is := w.ruleCause(); is {
		return []cause{c}
	}
	var causes []cause
	if w.Packet.Mark&w.MarkMask != w.Flow.Mark {
		causes = w.markCauses()
	} else if rule := w.LinkRule(w.Flow); !w.hasRule(rule) {
		causes = append(causes, cause{fmt.Sprintf("the rule `%s` is missing", rule), resync})
	}
	for _, s := range w.Steps {
		if s.Rule.Table == w.Flow.Table {
			causes = append(causes, w.tableCause(s))
		}
	}
	if len(causes) == 0 {
		return []cause{otherwise}
	}
	return causes
}

// ruleCause says which rule of somebody else's decides before ours.
func (w Way) ruleCause() (c cause, is bool) {
	at := PrioritiesAround(w.RulePriority)
	for _, s := range w.Steps {
		if !w.isOurs(s.Rule) && s.Rule.Priority <= at.Source && (s.Decides() || s.Rule.Goto > at.Link) {
			return cause{fmt.Sprintf("the rule `%s` is before egress-ip's", s.Rule), fmt.Sprintf("remove it, or give it a priority above %d", at.Behind)}, true
		}
	}
	return cause{}, false
}

// Leaves reports whether the packet leaves by the flow's link.
func (w Way) Leaves() bool { return w.Answer.Refusal == 0 && w.Answer.Link == w.Flow.Index }

// Obstacle says why the packet does not leave by the flow's link, whatever its mark.
func (w Way) Obstacle() string {
	c := otherwise
	if !w.Agrees() {
		c = w.disagreementCause()
	} else if by, is := w.ruleCause(); is {
		c = by
	} else {
		for _, s := range w.Steps {
			if s.Rule.Table == w.Flow.Table {
				c = w.tableCause(s)
			}
		}
	}
	return fmt.Sprintf("packets of %s to outside the cluster would not leave by %s: %s; %s", w.Flow.Pod, w.Flow.Link, c.what, c.remedy)
}

// AnswerObstacle says that answers which come back by the flow's link do not get to the pod.
// The way's packet is one.
func (w Way) AnswerObstacle() string {
	return fmt.Sprintf("answers to %s that come by %s, which is in a VRF, would not get to it: the packet %s; see `ip rule`, and `ip route get %s from %s iif %s mark %#x`",
		w.Packet.To, w.Packet.In, w.going(), w.Packet.To, w.Packet.Source, w.Packet.In, w.Packet.Mark)
}

// disagreementCause says why the kernel's answer may not be what the rules lead to.
// IPv4 also refuses what a link does not forward, or its reverse path filter drops.
func (w Way) disagreementCause() cause {
	var rules []string
	for _, r := range w.Unfollowed() {
		rules = append(rules, "`"+r.String()+"`")
	}
	in, a := w.Packet.In, w.Answer
	switch ipv4 := w.Flow.Family() == IPv4; {
	case len(rules) > 0:
		return cause{"a rule decides that has selectors beyond source, destination, mark and link", "see " + strings.Join(rules, ", ")}
	case ipv4 && a.Refusal == RefusedUnreachable:
		return cause{fmt.Sprintf("the link %s does not forward", in), fmt.Sprintf("set net.ipv4.conf.%s.forwarding to 1", in)}
	case ipv4 && (a.Refusal == RefusedInvalid || a.Refusal == RefusedReversePath):
		return cause{fmt.Sprintf("the reverse path filter of %s does not see the way back to %s there", in, w.Packet.Source),
			fmt.Sprintf("%s, or see net.ipv4.conf.%s.rp_filter", resync, in)}
	default:
		return otherwise
	}
}

var otherwise = cause{"the kernel decides otherwise than its rules and tables read", "see `ip rule`"}

// markCauses says why the packet has not the link's mark; without any, it should
// still have met the source rule.
func (w Way) markCauses() []cause {
	var causes []cause
	switch m := w.Marking; {
	case !m.Exists:
		causes = append(causes, cause{"table inet egress_ip is not there", resync})
	case !m.Element:
		causes = append(causes, cause{fmt.Sprintf("map out%d of table inet egress_ip has no element %s", w.Flow.Family(), w.Flow.Pod), resync})
	default:
		causes = append(causes, cause{fmt.Sprintf("chain %s sets the mark %#x, and that of %s is %#x", m.Chain, m.Mark, w.Flow.Link, w.Flow.Mark), resync})
	}
	if rule := w.SourceRule(w.Flow); w.Packet.Mark&w.MarkMask == 0 && !w.hasRule(rule) {
		causes = append(causes, cause{fmt.Sprintf("the rule `%s` is missing", rule), resync})
	}
	return causes
}

// tableCause says why the link's table does not lead out by the link.
func (w Way) tableCause(s Step) cause {
	if c, is := w.linkCause(); is {
		return c
	}
	if s.Route.Type == 0 {
		return cause{fmt.Sprintf("table %d has no route for it", w.Flow.Table), resync}
	}
	c := cause{fmt.Sprintf("table %d has `%s` for it", w.Flow.Table, s.Route.Text(s.Link)), resync}
	if s.Route.Metric != UnreachableMetric {
		c.remedy = "remove that route, then " + resync
	}
	return c
}

// linkCause says what is wrong with the link itself.
func (w Way) linkCause() (c cause, is bool) {
	switch {
	case w.Link == (Link{}):
		return cause{fmt.Sprintf("the link %s (ifindex %d) is not there any more", w.Flow.Link, w.Flow.Index), "bring it back, and delete the pod, so that its ADD is made again"}, true
	case !w.Link.Up:
		return cause{fmt.Sprintf("the link %s is down", w.Flow.Link), fmt.Sprintf("bring it up (`ip link set %s up`), then %s", w.Flow.Link, resync)}, true
	case !w.Link.Carrier:
		return cause{fmt.Sprintf("the link %s has no carrier", w.Flow.Link), "check its other end, then " + resync}, true
	case w.Link.Unfit != "":
		return cause{fmt.Sprintf("the link %s cannot carry egress: %s", w.Flow.Link, w.Link.Unfit), "or undo that, then " + resync}, true
	}
	return cause{}, false
}
