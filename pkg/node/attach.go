package node

import (
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"github.com/egress-ip/egress-ip/pkg/config"
	"github.com/egress-ip/egress-ip/pkg/egress"
	"github.com/egress-ip/egress-ip/pkg/record"
)

// Attach is ADD: it makes an annotated pod leave as it asks, and puts up the
// probe table. What cannot be honoured is a [config.AnnotationError], and the
// node is as before; so it is, this pod's part of it, after any other error.
func (n *Node) Attach(c config.Config, r config.Request) error {
	if !r.Annotated() {
		// Nobody, not even an earlier ADD of its own, is to have egress for a plain pod.
		if err := n.displace(egress.Owner{}, r.PodAddresses); err != nil {
			return err
		}
		return n.ensureProbe(c.Probe, r.PodAddresses)
	}
	a, err := n.decide(c, r)
	if err != nil {
		return err
	}
	if err := n.ensureProbe(c.Probe, r.PodAddresses); err != nil {
		return err
	}
	if err := n.displace(a.Owner, r.PodAddresses); err != nil {
		return err
	}
	if err := n.replaceOwn(a); err != nil {
		return err
	}
	if err := n.apply(a); err != nil {
		if undo := n.detach(a, a.Flows); undo != nil {
			// What is left is recorded; the runtime's DEL tries again.
			slog.Warn("could not undo a failed ADD", "container", a.ContainerID, "error", undo)
		}
		return err
	}
	return nil
}

// decide returns what is to stand, with the lock taken. While it asks the link
// whether another host has an address, which takes a while, others may go on.
func (n *Node) decide(c config.Config, r config.Request) (egress.Attachment, error) {
	checked := map[egress.Address]bool{}
	for {
		if err := n.lock(); err != nil {
			return egress.Attachment{}, err
		}
		a, unchecked, err := n.desire(c, r)
		if err != nil {
			return egress.Attachment{}, err
		}
		unchecked = slices.DeleteFunc(unchecked, func(a egress.Address) bool { return checked[a] })
		if len(unchecked) == 0 {
			return a, nil
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
func (n *Node) desire(c config.Config, r config.Request) (egress.Attachment, []egress.Address, error) {
	none := egress.Attachment{}
	addresses, err := n.kernel.Addresses()
	if err != nil {
		return none, nil, err
	}
	names, indexes := egress.Candidates(r, c, addresses)
	links, err := n.kernel.Links(names, indexes)
	if err != nil {
		return none, nil, err
	}
	if err := n.markOurs(addresses, links, r); err != nil {
		return none, nil, err
	}
	flows, err := egress.Select(r, c, egress.Node{Links: links, Addresses: addresses})
	if err != nil {
		return none, nil, err
	}
	for _, f := range flows {
		routes, err := n.linkRoutes(f.Index, f.Family())
		if err != nil {
			return none, nil, err
		}
		if err := egress.CheckNextHops(r, f, routes); err != nil {
			return none, nil, err
		}
	}
	if err := n.checkAlone(c, flows); err != nil {
		return none, nil, err
	}
	mask, err := n.assignMarks(c, r, flows)
	if err != nil {
		return none, nil, err
	}
	var unchecked []egress.Address
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
		Since:        time.Now().UTC().Truncate(time.Second),
		RulePriority: c.RulePriority,
		MarkMask:     mask,
		ClusterCIDRs: c.ClusterCIDRs,
		Counters:     c.Counters,
		Flows:        flows,
	}, unchecked, nil
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
	_, f, ok, err := n.sharer(record.AddressObject(at), func(f egress.Flow) bool {
		return f.Index == at.Index && f.Address == at.Address
	})
	return ok && f.OwnsAddress, err
}

// sharer returns any attachment that needs a shared object, and its flow that does.
func (n *Node) sharer(o record.Object, is func(egress.Flow) bool) (egress.Attachment, egress.Flow, bool, error) {
	owners, err := n.store.Others(o, egress.Owner{})
	if err != nil {
		return egress.Attachment{}, egress.Flow{}, false, err
	}
	for _, owner := range owners {
		a, ok, err := n.store.Find(owner)
		if err != nil {
			return egress.Attachment{}, egress.Flow{}, false, err
		}
		if i := slices.IndexFunc(a.Flows, is); ok && i >= 0 {
			return a, a.Flows[i], true, nil
		}
	}
	return egress.Attachment{}, egress.Flow{}, false, nil
}

// displace takes away what other, dead, attachments have left for the pod
// addresses: an address has one pod at a time, and it is this one's now.
func (n *Node) displace(by egress.Owner, pods []netip.Addr) error {
	for _, pod := range pods {
		owner, taken, err := n.store.OwnerOf(pod)
		if err != nil {
			return err
		}
		if !taken || owner == by {
			continue
		}
		if err := n.lock(); err != nil {
			return err
		}
		dead, ok, err := n.store.Find(owner)
		if err != nil {
			return err
		}
		if !ok {
			continue // gone while we waited for the lock
		}
		slog.Info("a pod address that had egress has a new pod", "address", pod, "container", owner.ContainerID)
		flows := slices.DeleteFunc(slices.Clone(dead.Flows), func(f egress.Flow) bool { return f.Pod != pod })
		if err := n.detach(dead, flows); err != nil {
			return err
		}
	}
	return nil
}

// replaceOwn prepares for an ADD of an attachment that is recorded already: the
// flows that it is to have no longer go, and it stays as old as it is.
func (n *Node) replaceOwn(a egress.Attachment) error {
	before, ok, err := n.store.Find(a.Owner)
	if err != nil || !ok {
		return err
	}
	var stale []egress.Flow
	for _, f := range before.Flows {
		if before.RulePriority != a.RulePriority || before.MarkMask != a.MarkMask || before.Counters != a.Counters || !slices.Contains(a.Flows, f) {
			stale = append(stale, f)
		}
	}
	if len(stale) == 0 {
		return nil
	}
	return n.detach(before, stale)
}

// apply writes an attachment, the record first.
func (n *Node) apply(a egress.Attachment) error {
	before, again, err := n.store.Find(a.Owner)
	if err != nil {
		return err
	}
	if again {
		a.Since = before.Since
	}
	if err := n.store.Put(a); err != nil {
		return err
	}
	for _, f := range a.Flows {
		if err := n.writeTable(a.TableSpec(f)); err != nil {
			return err
		}
		if err := n.kernel.AddRoute(f.PodThrow()); err != nil {
			return err
		}
	}
	n.nameTables()
	for _, f := range a.Flows {
		if !f.OwnsAddress {
			continue
		}
		added, err := n.kernel.AddAddress(f.HostAddress())
		if err != nil {
			return err
		}
		if !added {
			continue
		}
		if err := n.kernel.Announce(f.HostAddress()); err != nil {
			return err
		}
	}
	if err := n.ensureSrcValidMark(a); err != nil {
		return err
	}
	for _, f := range a.Flows {
		if err := n.addRules(a.Rules(f)); err != nil {
			return err
		}
	}
	if err := n.store.PutCluster(a.ClusterCIDRs); err != nil {
		return err
	}
	if err := n.kernel.Classify(a.Classes(a.Flows...)); err != nil {
		return err
	}
	for _, f := range a.Flows {
		if slices.Contains(before.Flows, f) {
			continue // its connections have this translation
		}
		// Those of the pod that had the address before have another, or none: a
		// plain pod's DEL drops nothing.
		if err := n.kernel.DeleteConntrack(f.Pod); err != nil {
			return err
		}
	}
	return nil
}
