package node

import (
	"errors"
	"slices"

	"github.com/egress-ip/egress-ip/pkg/egress"
)

// vrfRules reads where the rules for VRFs are, if one of the links is in a VRF.
func (n *Node) vrfRules(links []egress.Link) (egress.VRFRules, error) {
	if !slices.ContainsFunc(links, egress.Link.InVRF) {
		return egress.VRFRules{}, nil
	}
	return n.kernel.VRFRules()
}

// addRules adds a flow's rules in their order.
func (n *Node) addRules(rules []egress.Rule) error {
	for _, r := range rules {
		if _, err := n.kernel.AddRule(r); err != nil {
			return err
		}
	}
	return nil
}

// deleteStaleRules deletes the rules that an attachment needed as it was recorded before, and
// nothing needs any more: its new ADD may have come with other cluster networks.
func (n *Node) deleteStaleRules(before, a egress.Attachment) error {
	if len(before.Flows) == 0 {
		return nil // it had none
	}
	unneeded, err := n.unneeded(before, before.Flows, nil)
	if err != nil {
		return err
	}
	needed := a.Objects(a.Flows...)
	for _, f := range before.Flows {
		for _, r := range before.SharedRules(f) {
			if o := egress.RuleObject(r); slices.Contains(needed, o) || !slices.Contains(unneeded, o) {
				continue
			}
			if err := n.kernel.DeleteRule(r); err != nil {
				return err
			}
		}
	}
	return nil
}

// repairRules adds what catches a pod's packets before what lets packets pass.
func (n *Node) repairRules(missing []egress.Rule) error {
	var errs []error
	for _, now := range []func(egress.Rule) bool{
		func(r egress.Rule) bool { return r.Goto == 0 },
		func(r egress.Rule) bool { return r.Goto != 0 },
	} {
		for _, r := range missing {
			if now(r) {
				_, err := n.kernel.AddRule(r)
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}
