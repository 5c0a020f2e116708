package node

import (
	"cmp"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/egress-ip/egress-ip/pkg/config"
	"github.com/egress-ip/egress-ip/pkg/egress"
	"github.com/egress-ip/egress-ip/pkg/kernel"
	"github.com/egress-ip/egress-ip/pkg/record"
)

// Attach is ADD of an annotated pod: it makes the pod leave as it asks, and installs
// the probe table. What cannot be honoured is a [config.AnnotationError], and the
// node is as before; so it is, this pod's part of it, after any other error.
func (n *Node) Attach(c config.Config, r config.Request) error {
	a, err := n.decide(c, r)
	if err != nil {
		return err
	}
	if err := n.EnsureProbe(c.Probe, r.PodAddresses); err != nil {
		return err
	}
	if err := n.displace(a.Owner, r.PodAddresses); err != nil {
		return err
	}
	before, err := n.replaceOwn(&a)
	if err != nil {
		return err
	}
	if err := n.add(a, before); err != nil {
		// By sockets that have seen nothing of it. What is left is recorded; the runtime's DEL tries again.
		n.kernel.Close()
		n.kernel = kernel.Open()
		if undo := n.end(ending{a, a.Flows}); undo != nil {
			slog.Warn("could not undo a failed ADD", "container", a.ContainerID, "error", undo)
		}
		return err
	}
	if err := n.FollowRoutes(r.PodAddresses); err != nil {
		slog.Warn("other pods may not reach this one for a while", "container", a.ContainerID, "error", err)
	}
	return nil
}

// decide returns the attachment that is to exist, with the lock taken. While it asks the link
// whether another host has an address, which takes a while, others may go on.
func (n *Node) decide(c config.Config, r config.Request) (egress.Attachment, error) {
	free := map[egress.Address]bool{}
	for {
		if err := n.lock(); err != nil {
			return egress.Attachment{}, err
		}
		a, unchecked, err := n.desire(c, r)
		if err != nil {
			return a, err
		}
		unchecked = slices.DeleteFunc(unchecked, func(a egress.Address) bool { return free[a] })
		if len(unchecked) == 0 {
			return a, nil
		}
		n.release()
		claim, err := n.kernel.WhoHas(unchecked)
		if err != nil {
			return a, err
		}
		if claim != nil {
			return a, r.AddressError(fmt.Sprintf(
				"another host on the link has %s: %s; free the address there, or choose another (where a router answers for every address, set links[].duplicateCheck to false)",
				claim.Address.Address, claim.MAC))
		}
		for _, a := range unchecked {
			free[a] = true
		}
	}
}

// desire reads what the request is about and decides. It also returns the egress
// addresses that are to be added to a link and are to be checked before.
func (n *Node) desire(c config.Config, r config.Request) (a egress.Attachment, unchecked []egress.Address, err error) {
	records, err := n.records()
	if err != nil {
		return a, nil, err
	}
	shared := records.Concerning(nil)
	addresses, err := n.kernel.Addresses()
	if err != nil {
		return a, nil, err
	}
	ours := map[egress.Address]bool{}
	for _, f := range egress.Flows(shared...) {
		ours[f.HostAddress()] = f.OwnsAddress
	}
	for i, a := range addresses {
		addresses[i].Ours = a.Network.IsSingleIP() && ours[a.At()]
	}
	links, err := n.kernel.Links(egress.Candidates(r, c, addresses))
	if err != nil {
		return a, nil, err
	}
	node := egress.Node{Links: links, Addresses: addresses}
	if node.VRFs, err = n.vrfRules(links); err != nil {
		return a, nil, err
	}
	flows, err := egress.Select(r, c, node)
	if err != nil {
		return a, nil, err
	}
	for i, f := range flows {
		link, _ := node.Link(f.Index)
		routes, err := n.kernel.LinkRoutes(f.Family(), link.Table, f.Index)
		if err != nil {
			return a, nil, err
		}
		if err := egress.CheckNextHops(r, f, routes); err != nil {
			return a, nil, err
		}
		if err := n.place(r, &flows[i]); err != nil {
			return a, nil, err
		}
	}
	if err := n.checkAlone(c, flows, records, shared); err != nil {
		return a, nil, err
	}
	mask, masked, err := n.assignMarks(c, flows, records, shared)
	if err != nil {
		return a, nil, err
	}
	for _, f := range flows {
		exists := slices.ContainsFunc(addresses, func(a egress.LinkAddress) bool { return a.Network.Addr() == f.Address })
		if !exists && c.ChecksDuplicates(f.Link) && !slices.Contains(unchecked, f.HostAddress()) {
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
func (n *Node) place(r config.Request, f *egress.Flow) error {
	in, bridged, err := n.kernel.PodLink(r.HostInterfaces, f.Pod)
	if err != nil {
		return err
	}
	f.In = in
	if mac, err := net.ParseMAC(r.PodMAC); bridged && err == nil && len(mac) == 6 {
		f.MAC = mac.String()
	}
	if in == 0 {
		slog.Warn("the source of the pod's packets is not checked: prevResult names no link of the pod on the node and there is no route to it, or its link is in a VRF", "address", f.Pod)
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

// ConflictError says that somebody else owns the ground on which egress-ip builds.
type ConflictError struct{ conflict string }

func (e *ConflictError) Error() string { return e.conflict }

// conflict returns a [ConflictError], unless there is none.
func conflict(text string, err error) error {
	if err != nil || text == "" {
		return err
	}
	return &ConflictError{text}
}

// checkAlone refuses to mix with another system. Rules and foreign content of our
// table are looked for before the node's first annotated pod, when there is
// nothing of ours yet.
func (n *Node) checkAlone(c config.Config, flows []egress.Flow, records *record.Records, shared []egress.Attachment) error {
	if err := conflict(n.kernel.OtherEgress()); err != nil {
		return err
	}
	used := map[egress.TableKey]bool{}
	for _, f := range egress.Flows(shared...) {
		used[f.TableKey()] = true
	}
	var families []egress.Family
	for _, f := range flows {
		if !used[f.TableKey()] {
			if err := n.checkTable(c, f); err != nil {
				return err
			}
		}
		if !slices.Contains(families, f.Family()) {
			families = append(families, f.Family())
		}
	}
	if !records.Empty() {
		return nil
	}
	return conflict(n.kernel.Foreign(families, egress.PrioritiesAround(c.RulePriority)))
}

// checkTable refuses a flow's table, at its first use, that holds routes of somebody else.
// What a call that was killed has left has its closing route.
func (n *Node) checkTable(c config.Config, f egress.Flow) error {
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

// assignMarks gives each flow its link's mark: the one that the link has, else
// the lowest that no link has. It returns the mask that the marks are from, and the
// bits of others that do not count. Both stay the same while there are annotated pods,
// whatever the configuration says: packets of theirs are on their way with them.
func (n *Node) assignMarks(c config.Config, flows []egress.Flow, records *record.Records, shared []egress.Attachment) (mask, masked uint32, err error) {
	mask, masked = c.MarkMask, c.MaskedMarks
	if len(shared) > 0 {
		inUse("markMask", &mask, shared[0].MarkMask)
		inUse("maskedMarks", &masked, shared[0].MaskedMarks)
	}
	marks, left, taken := map[int]uint32{}, map[uint32]uint32{}, map[uint32]bool{} // by ifindex, by table
	for _, f := range egress.Flows(shared...) {
		marks[f.Index], taken[f.Mark] = f.Mark, true
	}
	if len(records.Damaged) > 0 {
		// What they say is in the kernel.
		for _, family := range egress.Families {
			rules, err := n.kernel.Rules(family)
			if err != nil {
				return 0, 0, err
			}
			for _, r := range rules {
				if r.Mark != 0 && r.Table != 0 && r.Table != egress.MainTable {
					left[r.Table], taken[r.Mark] = r.Mark, true
				}
			}
		}
	}
	for i, f := range flows {
		mark := cmp.Or(marks[f.Index], left[f.Table])
		for next := range egress.Marks(mask) {
			if mark != 0 {
				break
			}
			if !taken[next] {
				mark = next
			}
		}
		if mark == 0 {
			return 0, 0, fmt.Errorf("no mark is left for the link %s: markMask %#x has room for %d links with egress; widen markMask",
				f.Link, mask, mask/(mask&-mask)-1)
		}
		flows[i].Mark, marks[f.Index], taken[mark] = mark, mark, true
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

// add records an attachment, converges, and verifies.
func (n *Node) add(a, before egress.Attachment) error {
	records, err := n.records()
	if err != nil {
		return err
	}
	if err := n.put(a); err != nil {
		return err
	}
	stale, err := n.recordParts(a)
	if err != nil {
		return err
	}
	var v view
	if err := n.converge(func() (view, error) {
		v, err = n.lookToAdd(a, before, records, stale)
		return v, err
	}); err != nil {
		return err
	}
	return n.verify(a, v)
}

// recordParts records the tables of an attachment's links, and the cluster networks, as it has
// them configured. Stale are destinations that leave by a link from now on.
func (n *Node) recordParts(a egress.Attachment) (stale bool, err error) {
	main := map[egress.Family][]egress.Route{}
	changed := false
	for _, f := range a.Flows {
		t := a.Table(f)
		if t.Thrown, err = n.thrown(t, main); err != nil {
			return false, err
		}
		before, recorded, err := n.store.Table(f.Table, f.Family())
		if err != nil {
			return false, err
		}
		stale = stale || len(egress.Missing(before.Thrown, t.Thrown)) > 0
		if recorded && before.Equal(t) {
			continue
		}
		if err := n.store.PutTable(t); err != nil {
			return false, err
		}
		changed = true
	}
	if changed {
		n.nameTables()
	}
	return stale, n.store.PutCluster(a.ClusterCIDRs)
}

// thrown returns the destinations that never leave by a table's link. Pods' and other nodes'
// routes are in main also where the link is in a VRF.
func (n *Node) thrown(t egress.Table, all map[egress.Family][]egress.Route) (_ []netip.Prefix, err error) {
	if len(t.Cluster) > 0 {
		return t.Cluster, nil
	}
	main, ok := all[t.Family]
	if !ok {
		if main, err = n.kernel.AllRoutes(t.Family, egress.MainTable); err != nil {
			return nil, err
		}
		all[t.Family] = main
	}
	return t.DerivedCluster(main), nil
}

// FollowRoutes makes what links' tables throw what main has now, where the configuration
// does not name the cluster's networks: a route to a pod that has just started may be new.
func (n *Node) FollowRoutes(pods []netip.Addr) error {
	tables, err := n.store.Tables()
	if err != nil {
		return err
	}
	for _, t := range tables {
		if len(t.Cluster) == 0 && slices.ContainsFunc(pods, func(pod netip.Addr) bool {
			return egress.FamilyOf(pod) == t.Family && !slices.ContainsFunc(t.Thrown, func(p netip.Prefix) bool { return p.Contains(pod) })
		}) {
			_, err := n.Resync()
			return err
		}
	}
	return nil
}

// Displace is the part of ADD of a plain pod: no attachment, not even one of an earlier
// ADD of its own, is to have egress for its addresses.
func (n *Node) Displace(pods []netip.Addr) error { return n.displace(egress.Owner{}, pods) }

// displace takes away what other, dead, attachments have left for the pod
// addresses: an address has one pod at a time, and it is this one's now.
func (n *Node) displace(by egress.Owner, pods []netip.Addr) error {
	claims, err := n.claims(pods, by)
	if err != nil {
		return err
	}
	if len(claims) > 0 && n.unlock == nil {
		if err := n.lock(); err != nil {
			return err
		}
		return n.displace(by, pods) // some may have gone while we waited
	}
	var claimed []netip.Addr
	for _, dead := range claims {
		of := egress.Pods(dead.with(dead.flows))
		slog.Info("a pod address that had egress has a new pod", "addresses", of, "container", dead.ContainerID)
		claimed = append(claimed, of...)
	}
	if len(claims) > 0 {
		if err := n.end(claims...); err != nil {
			return err
		}
	}
	for _, pod := range pods {
		if slices.Contains(claimed, pod) {
			continue
		}
		if err := n.removeStray(by, pod); err != nil {
			return err
		}
	}
	return nil
}

// removeStray takes away what the kernel has for a pod address and no record asks for:
// else the address' next pod would leave as the one before did. The caller knows that
// nothing is recorded.
func (n *Node) removeStray(by egress.Owner, pod netip.Addr) error {
	owner, exists, err := n.kernel.OwnerOf(pod)
	if err != nil || !exists || owner == by.Comment() {
		return err
	}
	if err := n.lock(); err != nil {
		return err
	}
	if claims, err := n.claims([]netip.Addr{pod}, by); err != nil || len(claims) > 0 {
		return err // an ADD that was under way
	}
	slog.Info("a pod address has egress that is recorded nowhere; it is removed", "address", pod, "container", owner)
	return n.converge(func() (view, error) { return n.lookStray(pod) })
}

// replaceOwn prepares for an ADD of an attachment that is recorded already, and returns that: the
// flows that it is to have no longer go, and it stays as old as it is. A damaged record is about to
// be replaced.
func (n *Node) replaceOwn(a *egress.Attachment) (before egress.Attachment, err error) {
	before, ok, _, err := find(n.store, a.Owner)
	if err != nil || !ok {
		return egress.Attachment{}, err
	}
	a.Since = before.Since
	stale := ending{before, nil}
	for _, f := range before.Flows {
		if before.RulePriority != a.RulePriority || before.MarkMask != a.MarkMask || before.Counters != a.Counters || !slices.Contains(a.Flows, f) {
			stale.flows = append(stale.flows, f)
		}
	}
	if len(stale.flows) == 0 {
		return before, nil
	}
	return stale.left(), n.end(stale)
}
