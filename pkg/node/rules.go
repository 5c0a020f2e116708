package node

import (
	"errors"
	"slices"

	"github.com/egress-ip/egress-ip/pkg/egress"
)

// addRules adds a flow's rules in their order. A link's rule that stands already when
// main's rule comes, which shares its priority, goes behind that.
func (n *Node) addRules(rules []egress.Rule) error {
	var came []egress.Rule // of main, with this call
	var there []egress.Rule
	for _, r := range rules {
		added, err := n.kernel.AddRule(r)
		if err != nil {
			return err
		}
		if !added {
			there = append(there, r)
		} else if r.Specific {
			came = append(came, r)
		}
	}
	return n.moveRules(egress.Misplaced(append(came, there...), there))
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

// repairRules adds what catches a pod's packets before what lets packets pass, and
// main's rules before their links'.
func (n *Node) repairRules(missing, misplaced []egress.Rule) error {
	var errs []error
	for _, now := range []func(egress.Rule) bool{
		func(r egress.Rule) bool { return r.Specific },
		func(r egress.Rule) bool { return !r.Specific && r.Goto == 0 },
		func(r egress.Rule) bool { return r.Goto != 0 },
	} {
		for _, r := range missing {
			if now(r) {
				_, err := n.kernel.AddRule(r)
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(append(errs, n.moveRules(misplaced))...)
}

func (n *Node) moveRules(rules []egress.Rule) error {
	var errs []error
	for _, r := range rules {
		errs = append(errs, n.kernel.MoveRule(r))
	}
	return errors.Join(errs...)
}
