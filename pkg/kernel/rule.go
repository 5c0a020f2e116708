package kernel

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/egress-ip/egress-ip/pkg/egress"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// SourceRules returns the source rules of a family that egress-ip would put at
// this priority. The kernel has no filter for rules: the whole list comes.
func (k *Kernel) SourceRules(f egress.Family, priority uint32) ([]egress.Rule, error) {
	all, err := k.rules(f)
	if err != nil {
		return nil, fmt.Errorf("read %s rules: %w", f, err)
	}
	var rules []egress.Rule
	for _, r := range all {
		from, ok := toPrefix(r.Src)
		if !ok || !from.IsSingleIP() || uint32(r.Priority) != priority || r.Protocol != unix.RTPROT_KERNEL {
			continue
		}
		rules = append(rules, egress.Rule{Priority: priority, From: from.Addr(), Table: uint32(r.Table)})
	}
	return rules, nil
}

// rules dumps without strict checks: the library asks for rules with the header
// of a link, which a strict kernel refuses.
func (k *Kernel) rules(f egress.Family) ([]netlink.Rule, error) {
	if err := k.rt.SetStrictCheck(false); err != nil {
		return nil, err
	}
	rules, err := dump(func() ([]netlink.Rule, error) { return k.rt.RuleList(family(f)) })
	return rules, errors.Join(err, k.rt.SetStrictCheck(true))
}

// AddRule adds a source rule.
func (k *Kernel) AddRule(r egress.Rule) error {
	if err := k.rt.RuleAdd(sourceRule(r)); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add rule %s: %w", r, err)
	}
	return nil
}

// DeleteRule deletes a source rule.
func (k *Kernel) DeleteRule(r egress.Rule) error {
	if err := k.rt.RuleDel(sourceRule(r)); err != nil && !gone(err) {
		return fmt.Errorf("delete rule %s: %w", r, err)
	}
	return nil
}

func sourceRule(r egress.Rule) *netlink.Rule {
	rule := netlink.NewRule()
	rule.Priority = int(r.Priority)
	rule.Src = fromPrefix(egress.Host(r.From))
	rule.Table = int(r.Table)
	rule.Family = familyOf(r.From)
	// systemd-networkd removes rules that it did not make, unless they are the kernel's.
	rule.Protocol = unix.RTPROT_KERNEL
	return rule
}

func familyOf(a netip.Addr) int { return family(egress.FamilyOf(a)) }
