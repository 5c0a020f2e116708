package egress

import (
	"net/netip"
	"slices"
)

// Uplinks returns the indexes of the links by which packets of annotated pods come from
// outside the cluster, or may: the egress links, those of the default route, and those
// with an address outside the cluster's networks. There the kernel has to look the way
// back of IPv4 packets up with their mark: a strict reverse path filter would find the
// egress link for a connection to an annotated pod that came in by another, and without a
// mark the look-up walks the list of source rules. On every other link the source of a
// packet is the cluster's own, for which there are rules before that list; and the marks
// that others give to the packets of plain pods, a transparent proxy's for one, must not
// count when the way back is looked up.
//
// Where the egress link is in a VRF, the links by which its pods' packets come are among
// them: the kernel looks the way back to a pod up as if it were to come from the egress link,
// and without the link's mark the rule for VRFs finds the VRF's table.
//
// Without configured cluster networks a rule asks main for the way to every source but
// those behind its default route.
func Uplinks(attachments []Attachment, addresses []LinkAddress, byDefault []int) []int {
	var (
		uplinks []int
		pods    []netip.Addr
		named   [][]netip.Prefix
	)
	for _, a := range attachments {
		for _, f := range a.Flows {
			if f.Family() != IPv4 {
				continue
			}
			uplinks, pods = append(uplinks, f.Index), append(pods, f.Pod)
			if f.VRFRule != 0 && f.In != 0 {
				uplinks = append(uplinks, f.In)
			}
			if c := a.clusterOf(IPv4); len(c) > 0 && (len(named) == 0 || !slices.Equal(c, named[len(named)-1])) {
				named = append(named, c)
			}
		}
	}
	if len(pods) == 0 {
		return nil
	}
	uplinks = append(uplinks, byDefault...)
	for _, a := range addresses {
		outside := func(cluster []netip.Prefix) bool {
			return !slices.ContainsFunc(cluster, func(c netip.Prefix) bool { return c.Contains(a.Network.Addr()) })
		}
		if !a.Network.Addr().Is4() || a.Network.Addr().IsLinkLocalUnicast() || !slices.ContainsFunc(named, outside) {
			continue
		}
		// The pods' own link is none, even where their network is not named.
		if !slices.ContainsFunc(pods, a.Network.Contains) {
			uplinks = append(uplinks, a.Index)
		}
	}
	slices.Sort(uplinks)
	return slices.Compact(uplinks)
}
