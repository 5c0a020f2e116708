package node

import (
	"net/netip"

	"github.com/egress-ip/egress-ip/pkg/egress"
)

// repairConnections drops what pods have opened while something of theirs was
// missing: conntrack would keep such a connection's wrong source for as long as it
// lives. What has the egress address stays, so that connections of before go on.
func (n *Node) repairConnections(v view, missing egress.State) error {
	suspect := map[netip.Addr]bool{}
	for _, e := range missing.Elements {
		if e.Pod.IsValid() {
			suspect[e.Pod] = true
		}
	}
	all := len(missing.Rules)+len(missing.Chains) > 0
	for _, r := range missing.Routes {
		all = all || r.IsClosing()
	}
	var flows []egress.Flow
	inside := map[egress.Family][]netip.Prefix{}
	for _, a := range v.attached {
		for _, f := range v.mine(a) {
			if all || suspect[f.Pod] {
				flows = append(flows, f)
			}
		}
	}
	if len(flows) == 0 {
		return nil
	}
	addresses, err := n.kernel.Addresses()
	if err != nil {
		return err
	}
	for _, a := range addresses {
		family := egress.FamilyOf(a.Network.Addr())
		inside[family] = append(inside[family], egress.Host(a.Network.Addr()))
	}
	for _, t := range v.tables {
		inside[t.Family] = append(inside[t.Family], t.Thrown...)
	}
	return n.kernel.DeleteMistranslated(flows, inside)
}
