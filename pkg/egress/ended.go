package egress

import (
	"net/netip"
	"slices"
)

// Ended returns what attachments have that nothing needs any more once they end: what is their
// pods' own, while no newer attachment has the pod's address, and what none of the rest needs.
// It also returns those pods.
func Ended(ending, rest []Attachment) (gone State, pods []netip.Addr) {
	owners := Owners(slices.Concat(ending, rest))
	mine := slices.Clone(ending)
	for i, a := range ending {
		mine[i].Flows = slices.DeleteFunc(slices.Clone(a.Flows), func(f Flow) bool { return owners[f.Pod] != a.Owner })
		for _, f := range mine[i].Flows {
			pods = append(pods, f.Pod)
		}
	}
	own := Desired(mine, Facts{}).Own()
	shared := Replaced(ending, rest)
	isOwn := shared.Own()
	shared, _ = shared.Less(isOwn)
	return own.And(shared), pods
}

// Replaced returns what attachments need and those that take their place do not. A chain
// is the same whatever is in it. What is known of an address that stays on its link stays with
// the link's chains.
func Replaced(before, after []Attachment) State {
	kept := Desired(after, Facts{})
	gone, _ := Desired(before, Facts{}).Less(kept)
	gone.Chains = slices.DeleteFunc(gone.Chains, func(c Chain) bool {
		return slices.ContainsFunc(kept.Chains, func(k Chain) bool { return k.Name == c.Name })
	})
	gone.Elements = slices.DeleteFunc(gone.Elements, func(e Element) bool {
		return e.Set == FamilyOf(e.host()).Arrived() && !slices.ContainsFunc(gone.Addresses, func(a Address) bool { return a.Address == e.Address })
	})
	return gone
}
