package node

import (
	"fmt"
	"log/slog"
	"slices"

	"github.com/egress-ip/egress-ip/pkg/config"
	"github.com/egress-ip/egress-ip/pkg/egress"
)

// assignMarks gives each flow its link's mark: the one that the link has, else
// the lowest that no link has. It returns the mask that the marks are from, and the
// bits of others that do not count. Both stay the same while there are annotated pods,
// whatever the configuration says: packets of theirs are on their way with them.
func (n *Node) assignMarks(c config.Config, flows []egress.Flow) (mask, masked uint32, err error) {
	mask, masked = c.MarkMask, c.MaskedMarks
	any, _, ok, err := n.sharer(func(egress.Flow) bool { return true })
	if err != nil {
		return 0, 0, err
	}
	if ok {
		inUse("markMask", &mask, any.MarkMask)
		inUse("maskedMarks", &masked, any.MaskedMarks)
	}
	given := map[int]uint32{}
	for i, f := range flows {
		mark, ok := given[f.Index]
		if !ok {
			if mark, err = n.markOf(f, mask, given); err != nil {
				return 0, 0, err
			}
			if mark == 0 {
				return 0, 0, fmt.Errorf("no mark is left for the link %s: markMask %#x has room for %d links with egress; widen markMask",
					f.Link, mask, count(mask))
			}
			given[f.Index] = mark
		}
		flows[i].Mark = mark
	}
	return mask, masked, nil
}

// inUse makes a configured value the one that counts.
func inUse(key string, configured *uint32, value uint32) {
	if *configured != value {
		slog.Warn(key+" has changed; it counts once the node has no annotated pod",
			"configured", fmt.Sprintf("%#x", *configured), "in use", fmt.Sprintf("%#x", value))
	}
	*configured = value
}

// markOf returns 0 where none is left.
func (n *Node) markOf(f egress.Flow, mask uint32, given map[int]uint32) (uint32, error) {
	_, same, ok, err := n.sharer(func(other egress.Flow) bool { return other.Index == f.Index })
	if err != nil || ok {
		return same.Mark, err
	}
	records, err := n.records()
	if err != nil {
		return 0, err
	}
	taken := map[uint32]bool{}
	for _, mark := range given {
		taken[mark] = true
	}
	for _, a := range records.Concerning(nil) {
		for _, other := range a.Flows {
			taken[other.Mark] = true
		}
	}
	if len(records.Damaged) > 0 {
		// What they say is in the kernel.
		rules, err := n.linkRules()
		if err != nil {
			return 0, err
		}
		for _, r := range rules {
			if r.Table == f.Table {
				return r.Mark, nil
			}
			taken[r.Mark] = true
		}
	}
	for mark := range egress.Marks(mask) {
		if !taken[mark] {
			return mark, nil
		}
	}
	return 0, nil
}

func count(mask uint32) int {
	n := 0
	for range egress.Marks(mask) {
		n++
	}
	return n
}

// linkRules returns the kernel's rules that send marked packets into a link's table.
func (n *Node) linkRules() ([]egress.Rule, error) {
	var rules []egress.Rule
	for _, family := range egress.Families {
		ours, err := n.kernel.Rules(family)
		if err != nil {
			return nil, err
		}
		rules = append(rules, slices.DeleteFunc(ours, func(r egress.Rule) bool { return r.Mark == 0 || r.Table == 0 || r.Table == egress.MainTable })...)
	}
	return rules, nil
}
