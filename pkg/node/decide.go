package node

import (
	"fmt"
	"log/slog"
	"net"
	"slices"
	"time"

	"github.com/egress-ip/egress-ip/pkg/config"
	"github.com/egress-ip/egress-ip/pkg/egress"
)

// decide returns what is to stand, with the lock taken. While it asks the link
// whether another host has an address, which takes a while, others may go on.
func (n *Node) decide(c config.Config, r config.Request) (egress.Attachment, error) {
	checked := map[egress.Address]bool{}
	for {
		if err := n.lock(); err != nil {
			return egress.Attachment{}, err
		}
		d, unchecked, err := n.desire(c, r)
		if err != nil {
			return egress.Attachment{}, err
		}
		unchecked = slices.DeleteFunc(unchecked, func(a egress.Address) bool { return checked[a] })
		if len(unchecked) == 0 {
			return d, nil
		}
		n.release()
		claim, err := n.kernel.WhoHas(unchecked)
		if err != nil {
			return egress.Attachment{}, err
		}
		if claim != nil {
			return egress.Attachment{}, r.AddressError(fmt.Sprintf(
				"another host on the link has %s: %s; free the address there, or choose another (where a router answers for every address, set links[].duplicateCheck to false)",
				claim.Address.Address, claim.MAC))
		}
		for _, a := range unchecked {
			checked[a] = true
		}
	}
}

// desire reads what the request is about and decides. It also returns the egress
// addresses that are to be put on a link and are to be checked before.
func (n *Node) desire(c config.Config, r config.Request) (a egress.Attachment, unchecked []egress.Address, err error) {
	addresses, err := n.kernel.Addresses()
	if err != nil {
		return a, nil, err
	}
	names, indexes := egress.Candidates(r, c, addresses)
	links, err := n.kernel.Links(names, indexes)
	if err != nil {
		return a, nil, err
	}
	if err := n.markOurs(addresses, links, r); err != nil {
		return a, nil, err
	}
	vrfs, err := n.vrfRules(links)
	if err != nil {
		return a, nil, err
	}
	flows, err := egress.Select(r, c, egress.Node{Links: links, Addresses: addresses, VRFs: vrfs})
	if err != nil {
		return a, nil, err
	}
	for _, f := range flows {
		routes, err := n.kernel.LinkRoutes(f.Family(), tableOf(links, f.Index), f.Index)
		if err != nil {
			return a, nil, err
		}
		if err := egress.CheckNextHops(r, f, routes); err != nil {
			return a, nil, err
		}
	}
	if err := n.place(r, flows); err != nil {
		return a, nil, err
	}
	if err := n.checkAlone(c, flows); err != nil {
		return a, nil, err
	}
	mask, masked, err := n.assignMarks(c, flows)
	if err != nil {
		return a, nil, err
	}
	for _, f := range flows {
		stands := slices.ContainsFunc(addresses, func(a egress.LinkAddress) bool { return a.Network.Addr() == f.Address })
		if !stands && c.ChecksDuplicates(f.Link) && !slices.Contains(unchecked, f.HostAddress()) {
			unchecked = append(unchecked, f.HostAddress())
		}
	}
	return egress.Attachment{
		Owner:        egress.Owner{ContainerID: r.ContainerID, IfName: r.IfName},
		Network:      c.Network,
		PodNamespace: r.PodNamespace,
		PodName:      r.PodName,
		Origin:       r.Origin,
		Since:        time.Now().UTC().Truncate(time.Second),
		RulePriority: c.RulePriority,
		MarkMask:     mask,
		MaskedMarks:  masked,
		ClusterCIDRs: c.ClusterCIDRs,
		Counters:     c.Counters,
		OwnNetworks:  egress.OwnNetworks(r, c, flows),
		Unchecked:    c.Unchecked,
		Flows:        flows,
	}, unchecked, nil
}

// place finds out where the pod is: from there alone come its packets.
func (n *Node) place(r config.Request, flows []egress.Flow) error {
	for i, f := range flows {
		in, bridged, err := n.kernel.PodLink(r.HostInterfaces, f.Pod)
		if err != nil {
			return err
		}
		flows[i].In = in
		if mac, err := net.ParseMAC(r.PodMAC); bridged && err == nil && len(mac) == 6 {
			flows[i].MAC = mac.String()
		}
		if in == 0 {
			slog.Warn("the source of the pod's packets is not checked: prevResult names no link of the pod on the node and there is no route to it, or its link is in a VRF", "address", f.Pod)
		}
	}
	return nil
}

// vrfRules reads where the rules for VRFs are, if one of the links is in a VRF.
func (n *Node) vrfRules(links []egress.Link) (egress.VRFRules, error) {
	if !slices.ContainsFunc(links, egress.Link.InVRF) {
		return egress.VRFRules{}, nil
	}
	return n.kernel.VRFRules()
}

func tableOf(links []egress.Link, index int) uint32 {
	i := slices.IndexFunc(links, func(l egress.Link) bool { return l.Index == index })
	return links[i].Table // flows are on links that were read
}

// markOurs says of the addresses that the request can mean which of them
// egress-ip has put on a link; it puts there nothing but /32 and /128.
func (n *Node) markOurs(addresses []egress.LinkAddress, links []egress.Link, r config.Request) error {
	for i, a := range addresses {
		if !a.Network.IsSingleIP() || !slices.ContainsFunc(links, func(l egress.Link) bool { return l.Index == a.Index }) {
			continue
		}
		if len(r.Addresses) > 0 && !slices.Contains(r.Addresses, a.Network.Addr()) {
			continue
		}
		ours, err := n.ours(egress.Flow{Index: a.Index, Address: a.Network.Addr()})
		if err != nil {
			return err
		}
		addresses[i].Ours = ours
	}
	return nil
}

// ours asks any attachment that shares the address; they all say the same.
func (n *Node) ours(at egress.Flow) (bool, error) {
	_, f, ok, err := n.sharer(func(f egress.Flow) bool { return f.Index == at.Index && f.Address == at.Address })
	return ok && f.OwnsAddress, err
}

// ConflictError says that somebody else owns the ground on which egress-ip builds.
type ConflictError struct{ conflict string }

func (e *ConflictError) Error() string { return e.conflict }

// checkAlone refuses to mix with another system. Rules and foreign content of our
// table are looked for before the node's first annotated pod, when there is
// nothing of ours yet.
func (n *Node) checkAlone(c config.Config, flows []egress.Flow) error {
	conflict, err := n.kernel.OtherEgress()
	if err != nil {
		return err
	}
	if conflict != "" {
		return &ConflictError{conflict}
	}
	for _, f := range flows {
		if err := n.checkTable(c, f); err != nil {
			return err
		}
	}
	records, err := n.records()
	if err != nil || !records.Empty() {
		return err
	}
	var families []egress.Family
	for _, f := range flows {
		if !slices.Contains(families, f.Family()) {
			families = append(families, f.Family())
		}
	}
	conflict, err = n.kernel.Foreign(families, egress.PrioritiesAround(c.RulePriority))
	if err != nil {
		return err
	}
	if conflict != "" {
		return &ConflictError{conflict}
	}
	return nil
}

// checkTable refuses a flow's table, at its first use, that holds routes of somebody else.
// What a call that was killed has left has its closing route.
func (n *Node) checkTable(c config.Config, f egress.Flow) error {
	if _, _, used, err := n.sharer(func(other egress.Flow) bool {
		return other.Table == f.Table && other.Family() == f.Family()
	}); err != nil || used {
		return err
	}
	left, others, err := n.kernel.TableRoutes(f.Family(), f.Table, f.Index, nil)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(left, egress.Route.IsClosing) {
		others = append(others, left...)
	}
	if len(others) == 0 {
		return nil
	}
	return &ConflictError{fmt.Sprintf(
		"somebody else uses table %d, which is tableBase %d + %d, the ifindex of %s: it has the %s route `%s`; remove the routes in it (`ip route show table %d`), or set tableBase",
		f.Table, c.TableBase, f.Index, f.Link, f.Family(), others[0].Text(n.linkName(others[0].Link)), f.Table)}
}
