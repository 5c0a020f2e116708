package node

import (
	"errors"

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
