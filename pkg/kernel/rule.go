package kernel

import (
	"errors"
	"fmt"
	"slices"

	"github.com/egress-ip/egress-ip/pkg/egress"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// actionNop is FR_ACT_NOP (linux/fib_rules.h).
const actionNop = 3

// Rules returns the rules of a family that are egress-ip's by their protocol, which
// the kernel's own are, too, and those that are not, in the order in which they
// are walked.
func (k *Kernel) Rules(f egress.Family) (ours, foreign []egress.Rule, err error) {
	all, err := k.rules(f, anyRule)
	if err != nil {
		return nil, nil, err
	}
	for _, r := range all {
		if r.protocol == unix.RTPROT_KERNEL {
			ours = append(ours, toRule(f, r.PolicyRule))
		} else {
			foreign = append(foreign, toRule(f, r.PolicyRule))
		}
	}
	return ours, foreign, nil
}

// PresentRules returns those of a family's rules that the kernel has. Of a list of
// thousands only these are kept.
func (k *Kernel) PresentRules(f egress.Family, wanted []egress.Rule) ([]egress.Rule, error) {
	found, err := k.rules(f, func(r ruleMessage) bool {
		return r.protocol == unix.RTPROT_KERNEL && slices.Contains(wanted, toRule(f, r.PolicyRule))
	})
	var present []egress.Rule
	for _, r := range found {
		present = append(present, toRule(f, r.PolicyRule))
	}
	return present, err
}

// VRFRules returns where the rules for VRFs are.
func (k *Kernel) VRFRules() (at egress.VRFRules, err error) {
	for f, first := range map[egress.Family]*uint32{egress.IPv4: &at.IPv4, egress.IPv6: &at.IPv6} {
		rules, err := k.rules(f, func(r ruleMessage) bool { return r.VRF })
		if err != nil {
			return at, err
		}
		if len(rules) > 0 {
			*first = rules[0].Priority
		}
	}
	return at, nil
}

func anyRule(ruleMessage) bool { return true }

func (k *Kernel) rules(f egress.Family, keep func(ruleMessage) bool) ([]ruleMessage, error) {
	rules, err := dump(func() ([]ruleMessage, error) { return k.dumpRules(f, keep) })
	if errors.Is(err, unix.EAFNOSUPPORT) {
		return nil, nil // a kernel without IPv6 (ipv6.disable=1) has no rules of it
	}
	if err != nil {
		return nil, fmt.Errorf("read %s rules: %w", f, err)
	}
	return rules, nil
}

// AddRule adds a rule, behind those of its priority; added is false where it stood
// there already.
func (k *Kernel) AddRule(r egress.Rule) (added bool, err error) {
	err = k.rt().RuleAdd(fromRule(r))
	if errors.Is(err, unix.EEXIST) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("add rule %s: %w", r, noAnswer(err))
	}
	return true, nil
}

// DeleteRule deletes a rule.
func (k *Kernel) DeleteRule(r egress.Rule) error {
	if err := k.rt().RuleDel(fromRule(r)); err != nil && !gone(err) {
		return fmt.Errorf("delete rule %s: %w", r, noAnswer(err))
	}
	return nil
}

// DeleteSourceRule deletes a pod's source rule, and every other rule from the pod to
// the same table, whosever: some copy rules. aws-node, when it starts, gives the last
// rule from each pod a priority of its own (amazon-vpc-cni-k8s, UpdateRuleListBySrc),
// and the next pod with the address would leave by the link.
func (k *Kernel) DeleteSourceRule(r egress.Rule) error {
	if err := k.DeleteRule(r); err != nil {
		return err
	}
	const most = 16 // copies, unless somebody makes them as fast as they go
	copies := netlink.NewRule()
	copies.Family, copies.Src, copies.Table = family(r.Family), fromPrefix(egress.Host(r.From)), int(r.Table)
	for range most {
		if err := k.rt().RuleDel(copies); gone(err) {
			return nil
		} else if err != nil {
			return fmt.Errorf("delete what else is as rule %s: %w", r, noAnswer(err))
		}
	}
	return nil
}

func fromRule(r egress.Rule) *netlink.Rule {
	rule := netlink.NewRule()
	rule.Priority = int(r.Priority)
	rule.Family = family(r.Family)
	rule.Table = int(r.Table)
	rule.Invert = r.Not
	// systemd-networkd removes rules that it did not make, unless they are the kernel's.
	rule.Protocol = unix.RTPROT_KERNEL
	if r.From.IsValid() {
		rule.Src = fromPrefix(egress.Host(r.From))
	}
	if r.To.IsValid() {
		rule.Dst = fromPrefix(r.To)
	}
	if r.Mask != 0 {
		rule.Mark, rule.Mask = r.Mark, &r.Mask
	}
	if r.Local {
		rule.IifName = "lo"
	}
	if r.MinBits != 0 {
		rule.SuppressPrefixlen = r.MinBits - 1
	}
	switch {
	case r.Goto != 0:
		rule.Goto = int(r.Goto)
	case r.Table == 0:
		rule.Type = actionNop
	}
	return rule
}

func toRule(f egress.Family, r egress.PolicyRule) egress.Rule {
	rule := egress.Rule{
		Priority: r.Priority, Family: f, To: r.To, Mark: r.Mark, Mask: r.Mask, Not: r.Not, Local: r.In == "lo",
		Table: r.Table, Goto: r.Goto, MinBits: r.MinBits,
	}
	if r.From.IsValid() && r.From.IsSingleIP() {
		rule.From = r.From.Addr()
	}
	return rule
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
