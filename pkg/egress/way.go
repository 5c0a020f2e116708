package egress

import (
	"fmt"
	"net/netip"
	"slices"
)

// Way is the way of the first packet of a connection that an annotated pod opens,
// and what it depends on.
type Way struct {
	Attachment
	Flow        Flow // zero: the pod has no egress in the destination's family
	Service     Service
	Packet      Packet // to the Service's backend, if there is one
	Marking     Marking
	NodeRules   []PolicyRule // all that the node has, in the kernel's order
	Steps       []Step       // those that the packet meets, to the one that decides
	Answer      Answer
	Translation Translation // by the link of the answer
	Link        Link        // the flow's; zero: it is not there
	Stands      bool        // the egress address is on the link
}

// Service is one of IPVS, which translates its address to that of a backend: the packet's
// destination. The zero Service is none.
type Service struct {
	Address           netip.Addr
	Backend, Backends int // which of how many the packet is for, from 1
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

// Unfollowed returns the rules before the one that decides that may take the pod's
// packets elsewhere, by selectors that are not known here. Where the way does not
// agree they are those, and those without a table, that may have taken this one.
func (w Way) Unfollowed() []PolicyRule {
	var rules []PolicyRule
	agrees, last := w.Agrees(), w.Decided().Rule
	for _, r := range w.NodeRules {
		if agrees && last.Table != 0 && r.Priority > last.Priority {
			break
		}
		if r.MayMatch(w.Packet) && (r.More != "" || !agrees && r.Table == 0 && r.Goto == 0 && !w.isOurs(r)) {
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
		ofCluster := slices.ContainsFunc(w.clusterRules(w.Flow.Family()), func(r Rule) bool { return r.Policy() == s.Rule })
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

func (w Way) isOurs(r PolicyRule) bool {
	return w.HasEgress() && slices.ContainsFunc(w.Attachment.Rules(w.Flow), func(ours Rule) bool { return ours.Policy() == r })
}

func (w Way) hasRule(r Rule) bool { return slices.Contains(w.NodeRules, r.Policy()) }
