package node

import (
	"net/netip"
	"slices"

	"github.com/egress-ip/egress-ip/pkg/egress"
)

// repairConnections drops what pods have opened while something of theirs was not
// as it should be: conntrack would keep such a connection's wrong source for as long as
// it lives. What has the egress address stays, so that connections of before go on.
// Of a pod that is recorded nowhere all go, as with a DEL.
func (n *Node) repairConnections(v view, missing, surplus egress.State) error {
	if err := n.forgetConnections(v, surplus); err != nil {
		return err
	}
	suspect := map[netip.Addr]bool{}
	all := misled(missing, surplus)
	for _, e := range slices.Concat(missing.Elements, surplus.Elements) {
		suspect[e.Pod] = true
		all = all || !ofPod(e)
	}
	var flows []egress.Flow
	inside := map[egress.Family][]netip.Prefix{}
	for _, a := range v.attached {
		for _, f := range v.mine(a) {
			if v.without[f.Pod] {
				f.Address = netip.Addr{} // it has none: no connection's is right
			}
			if all || suspect[f.Pod] {
				flows = append(flows, f)
			}
			inside[f.Family()] = append(inside[f.Family()], egress.Host(f.Pod))
		}
	}
	if len(flows) == 0 {
		return nil
	}
	for _, a := range v.addresses {
		family := egress.FamilyOf(a.Network.Addr())
		inside[family] = append(inside[family], egress.Host(a.Network.Addr()))
	}
	for _, t := range v.tables {
		inside[t.Family] = append(inside[t.Family], t.Thrown...)
	}
	return n.kernel.DeleteMistranslated(flows, inside)
}

// deleteConntrack drops the connections of pods.
func (n *Node) deleteConntrack(flows []egress.Flow) error {
	for _, f := range flows {
		if err := n.kernel.DeleteConntrack(f.Pod); err != nil {
			return err
		}
	}
	return nil
}

// misled reports whether packets of any pod can have gone a wrong way. Without a throw
// they cannot, the classification sees to that; and the throw of a single address is
// a pod's, which has gone.
func misled(missing, surplus egress.State) bool {
	return len(missing.Rules)+len(surplus.Rules)+len(missing.Chains)+len(surplus.Chains) > 0 ||
		slices.ContainsFunc(missing.Routes, func(r egress.Route) bool { return r.Type != egress.Throw }) ||
		slices.ContainsFunc(surplus.Routes, func(r egress.Route) bool { return r.Type != egress.Throw || !r.Dst.IsSingleIP() })
}

// ofPod reports whether an element is about one pod's packets.
func ofPod(e egress.Element) bool {
	f := egress.FamilyOf(e.Pod)
	return e.Pod.IsValid() && (e.Set == f.Out() || e.Set == f.Back() || e.Set == f.SNAT())
}

// forgetConnections drops those of pods that had rules or elements and are not recorded.
func (n *Node) forgetConnections(v view, surplus egress.State) error {
	var pods []netip.Addr
	for _, r := range surplus.Rules {
		pods = append(pods, r.From)
	}
	for _, e := range surplus.Elements {
		if ofPod(e) {
			pods = append(pods, e.Pod)
		}
	}
	slices.SortFunc(pods, netip.Addr.Compare)
	for _, pod := range slices.Compact(pods) {
		if _, recorded := v.owners[pod]; recorded || !pod.IsValid() {
			continue
		}
		if err := n.kernel.DeleteConntrack(pod); err != nil {
			return err
		}
	}
	return nil
}
