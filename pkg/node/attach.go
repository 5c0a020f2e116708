package node

import (
	"log/slog"
	"net/netip"
	"slices"

	"github.com/egress-ip/egress-ip/pkg/config"
	"github.com/egress-ip/egress-ip/pkg/egress"
	"github.com/egress-ip/egress-ip/pkg/kernel"
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
	renamed := false
	for _, f := range a.Flows {
		t := egress.Table{TableSpec: a.TableSpec(f)}
		thrown, err := n.thrown(t.TableSpec, main)
		if err != nil {
			return false, err
		}
		t.Thrown = slices.Clone(thrown)
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
		renamed = true
	}
	if renamed {
		n.nameTables()
	}
	return stale, n.store.PutCluster(a.ClusterCIDRs)
}

// FollowRoutes makes what links' tables throw what main has now, where the configuration
// does not name the cluster's networks: a route to a pod that has just started may be new.
func (n *Node) FollowRoutes(pods []netip.Addr) error {
	tables, err := n.store.Tables()
	if err != nil {
		return err
	}
	for _, t := range tables {
		if len(t.Cluster) > 0 {
			continue
		}
		for _, pod := range pods {
			if egress.FamilyOf(pod) == t.Family && !slices.ContainsFunc(t.Thrown, func(p netip.Prefix) bool { return p.Contains(pod) }) {
				_, err := n.Resync()
				return err
			}
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
		// Some may have gone while we waited.
		if claims, err = n.claims(pods, by); err != nil {
			return err
		}
	}
	for _, dead := range claims {
		slog.Info("a pod address that had egress has a new pod", "addresses", podsOf([]egress.Attachment{dead.with(dead.flows)}), "container", dead.ContainerID)
	}
	if len(claims) > 0 {
		if err := n.end(claims...); err != nil {
			return err
		}
	}
	for _, pod := range pods {
		if slices.ContainsFunc(claims, func(dead ending) bool {
			return slices.ContainsFunc(dead.flows, func(f egress.Flow) bool { return f.Pod == pod })
		}) {
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
// flows that it is to have no longer go, and it stays as old as it is.
func (n *Node) replaceOwn(a *egress.Attachment) (before egress.Attachment, err error) {
	before, ok, err := n.find(a.Owner)
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

// thrown returns the destinations that never leave by a table's link. Pods' and other nodes'
// routes are in main also where the link is in a VRF.
func (n *Node) thrown(t egress.TableSpec, all map[egress.Family][]egress.Route) ([]netip.Prefix, error) {
	if len(t.Cluster) > 0 {
		return t.Cluster, nil
	}
	main, ok := all[t.Family]
	if !ok {
		var err error
		if main, err = n.kernel.AllRoutes(t.Family, egress.MainTable); err != nil {
			return nil, err
		}
		all[t.Family] = main
	}
	return t.DerivedCluster(main), nil
}
