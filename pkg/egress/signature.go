package egress

import "slices"

// SourcePriorities returns the priorities of source rules around which rules of
// egress-ip stand, by their rule `not from all fwmark 0/.. goto ..`, which nobody
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

// Ours returns the rules that stand around one of the priorities.
func Ours(rules []Rule, priorities []uint32) []Rule {
	var ours []Rule
	for _, r := range rules {
		if slices.ContainsFunc(priorities, func(p uint32) bool {
			at := PrioritiesAround(p)
			return r.Priority >= max(at.Link, 1) && r.Priority <= at.Behind
		}) {
			ours = append(ours, r)
		}
	}
	return ours
}

// IsClosing reports whether the route is the one that closes a link's table.
func (r Route) IsClosing() bool {
	return r == TableSpec{Table: r.Table, Family: r.Family()}.Closing()
}
