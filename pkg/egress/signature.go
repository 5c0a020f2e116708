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

// Ours returns the rules that stand around one of the priorities and look like ours
// there: the kernel's own, which have its protocol too, may share a priority with them.
func Ours(rules []Rule, priorities []uint32) []Rule {
	var ours, seconds []Rule
	for _, r := range rules {
		if r.MinBits == 1 {
			seconds = append(seconds, r)
		}
	}
	for _, r := range rules {
		if slices.ContainsFunc(priorities, func(p uint32) bool { return r.isAt(PrioritiesAround(p)) }) ||
			slices.ContainsFunc(seconds, r.isBefore) ||
			r.MinBits == 1 && slices.ContainsFunc(rules, func(first Rule) bool { return first.isBefore(r) }) {
			ours = append(ours, r)
		}
	}
	return ours
}

func (r Rule) isAt(at Priorities) bool {
	return r.Priority == at.Link && r.Mask != 0 && r.Table != 0 ||
		r.Priority == at.Skip && r.Goto != 0 ||
		r.Priority == at.Skip && r.Table == MainTable && r.MinBits == shortestSpecific ||
		r.Priority == at.Source && r.From.IsValid() && r.Table != 0 ||
		r == Rule{Priority: at.Behind, Family: r.Family}
}

// isBefore reports whether the rule is the first of a link in a VRF, and the other the second
// (see [Attachment.vrfRules]). They are known by each other, wherever the rule for VRFs is today.
func (r Rule) isBefore(second Rule) bool {
	return r.Mask != 0 && r.Table > LocalTable &&
		second == Rule{Priority: r.Priority + 1, Family: r.Family, Mark: r.Mark, Mask: r.Mask, Table: MainTable, MinBits: 1}
}

// IsClosing reports whether the route is the one that closes a link's table.
func (r Route) IsClosing() bool {
	return r == TableSpec{Table: r.Table, Family: r.Family()}.Closing()
}
