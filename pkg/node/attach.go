package node

import (
	"errors"
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
	d, err := n.decide(c, r)
	if err != nil {
		return err
	}
	if err := n.EnsureProbe(c.Probe, r.PodAddresses); err != nil {
		return err
	}
	a := d.Attachment
	if err := n.displace(a.Owner, r.PodAddresses); err != nil {
		return err
	}
	if err := n.replaceOwn(a); err != nil {
		return err
	}
	err = n.apply(d)
	if err == nil {
		err = n.verify(d.Attachment)
	}
	if err != nil {
		if undo := n.undo(a); undo != nil {
			// What is left is recorded; the runtime's DEL tries again.
			slog.Warn("could not undo a failed ADD", "container", a.ContainerID, "error", undo)
		}
		return err
	}
	if err := n.FollowRoutes(r.PodAddresses); err != nil {
		slog.Warn("other pods may not reach this one for a while", "container", a.ContainerID, "error", err)
	}
	return nil
}

// undo takes a failed ADD back, by sockets that have seen nothing of it.
func (n *Node) undo(a egress.Attachment) error {
	n.kernel.Close()
	n.kernel = kernel.Open()
	return n.detach(a, a.Flows)
}

// classify writes what an attachment has in nftables. Where somebody has deleted or flushed
// the table, that is all of it, for all attachments.
func (n *Node) classify(c egress.Classes, others bool) error {
	err := n.kernel.Classify(c, others)
	if !errors.Is(err, kernel.ErrIncomplete) {
		return err
	}
	slog.Warn("the table inet egress_ip is not there, or not complete; it is written again for all pods")
	v, err := n.look()
	if err != nil {
		return err
	}
	return n.repair(v)
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
	for _, pod := range pods {
		claims, err := n.claims(pod, by)
		if err != nil {
			return err
		}
		if len(claims) == 0 {
			if err := n.removeStray(by, pod); err != nil {
				return err
			}
			continue
		}
		if n.unlock == nil {
			if err := n.lockToChange(); err != nil {
				return err
			}
			// Some may have gone while we waited.
			if claims, err = n.claims(pod, by); err != nil {
				return err
			}
		}
		for _, dead := range claims {
			slog.Info("a pod address that had egress has a new pod", "address", pod, "container", dead.ContainerID)
			flows := slices.DeleteFunc(slices.Clone(dead.Flows), func(f egress.Flow) bool { return f.Pod != pod })
			if err := n.detach(dead, flows); err != nil {
				return err
			}
		}
	}
	return nil
}

// replaceOwn prepares for an ADD of an attachment that is recorded already: the
// flows that it is to have no longer go, and it stays as old as it is.
func (n *Node) replaceOwn(a egress.Attachment) error {
	before, ok, err := n.find(a.Owner)
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
func (n *Node) apply(d decision) error {
	a := d.Attachment
	before, again, err := n.find(a.Owner)
	if err != nil {
		return err
	}
	if again {
		a.Since = before.Since
	}
	records, err := n.records()
	if err != nil {
		return err
	}
	if err := n.put(a); err != nil {
		return err
	}
	addresses, err := n.kernel.Addresses() // what has been replaced has taken its own away
	if err != nil {
		return err
	}
	classes := a.Classes(a.Flows...)
	for _, on := range addresses {
		classes.Arrived = append(classes.Arrived, egress.Address{Link: on.Index, Address: on.Network.Addr()})
	}
	for _, f := range a.Flows {
		table, err := n.writeTable(a.TableSpec(f), d.main[linkFamily{f.Index, f.Family()}])
		if err != nil {
			return err
		}
		classes.Derived = append(classes.Derived, table)
		if err := n.kernel.AddRoute(f.PodThrow()); err != nil {
			return err
		}
	}
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
		n.announce(f.HostAddress())
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
	if err := n.classify(classes, records.Others(a.Owner)); err != nil {
		return err
	}
	if err := n.deleteStaleRules(before, a); err != nil {
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
