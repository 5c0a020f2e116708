package node

import (
	"errors"
	"log/slog"
	"net/netip"
	"slices"

	"github.com/egress-ip/egress-ip/pkg/egress"
	"github.com/egress-ip/egress-ip/pkg/record"
)

// lookFor reads the part of the node that one attachment is about: what it needs, as it is
// recorded, and what exists of that and in the places of that. There may be thousands of other
// attachments. It changes nothing.
func (n *Node) lookFor(a egress.Attachment) (v view, err error) {
	v.recorded, v.attached = []egress.Attachment{a}, []egress.Attachment{a}
	v.owners = egress.Owners(v.attached)
	var indexes []int
	for _, f := range a.Flows {
		if !slices.Contains(indexes, f.Index) {
			indexes = append(indexes, f.Index)
		}
	}
	if v.links, err = n.kernel.Links(nil, indexes); err != nil {
		return v, err
	}
	for _, f := range a.Flows {
		if slices.ContainsFunc(v.Tables, func(t egress.Table) bool { return t.Key() == f.TableKey() }) {
			continue
		}
		t, recorded, err := n.store.Table(f.Table, f.Family())
		if err != nil {
			return v, err
		}
		if recorded {
			v.before = append(v.before, t)
		} else {
			t = a.Table(f)
		}
		if l, ok := (egress.Node{Links: v.links}).Link(f.Index); ok {
			if t.Main, err = n.kernel.LinkRoutes(f.Family(), l.Table, l.Index); err != nil {
				return v, err
			}
		}
		v.Tables = append(v.Tables, t)
	}
	cluster, recorded, err := n.store.Cluster()
	if err != nil {
		return v, err
	}
	if v.cluster = cluster; !recorded {
		v.cluster = a.ClusterCIDRs
	}
	if v.addresses, err = n.kernel.Addresses(); err != nil {
		return v, err
	}
	v.Want = egress.Desired(v.attached, egress.Facts{Tables: v.Tables, Cluster: v.cluster, Addresses: v.addresses})
	return v, n.compare(&v)
}

// compare reads what exists of what is wanted, and what has its place. An address counts once it
// is known that no other host has it.
func (n *Node) compare(v *view) error {
	confirmed := addressesOf(slices.DeleteFunc(slices.Clone(v.addresses), func(a egress.LinkAddress) bool { return a.Unconfirmed }))
	found, err := n.kernel.ReadAt(v.Want, v.Tables, confirmed)
	if err != nil {
		return err
	}
	v.Have, v.astray, v.classified, v.absent = found.State, found.Astray, found.Classified, nil
	for _, f := range egress.Flows(v.attached...) {
		if at := f.HostAddress(); !f.OwnsAddress && !slices.Contains(confirmed, at) && !slices.Contains(v.absent, at) {
			v.absent = append(v.absent, at)
		}
	}
	v.Missing, v.Surplus = v.Want.Less(v.Have)
	return nil
}

// lookToAdd is lookFor with what an ADD changes: what the attachment of before needed and this
// one does not, goes; and so do the connections of new flows. Where something that attachments
// share is not as it should be, or destinations are stale, it is the look at the whole node:
// the shared chains alone would take other pods for plain ones.
func (n *Node) lookToAdd(a, before egress.Attachment, records *record.Records, stale bool) (v view, err error) {
	if v, err = n.lookFor(a); err != nil {
		return v, err
	}
	broken := records.Others(a.Owner) && (v.classified.Former || v.isSharedMissing())
	if broken {
		slog.Warn("what all pods share is not there, or not complete; it is written again for all of them")
	}
	if broken || stale {
		v, err = n.look()
	} else {
		err = n.lookForUnmarked(&v)
		err = errors.Join(append(v.unread, err)...)
	}
	if err != nil {
		return v, err
	}
	for _, f := range a.Flows {
		if !slices.Contains(before.Flows, f) {
			// A plain pod that had the address before has left connections, with another translation or none.
			v.Fresh = append(v.Fresh, f.Pod)
		}
	}
	if len(before.Flows) == 0 || v.whole {
		return v, nil
	}
	replaced := egress.Replaced([]egress.Attachment{before}, append(records.Concerning(nil, a.Owner), a))
	if len(records.Damaged) > 0 {
		replaced = replaced.Own()
	}
	there, err := n.kernel.ClassificationAt(egress.State{Elements: replaced.Elements})
	replaced.Elements = intersection(replaced.Elements, there.Elements)
	v.Surplus = v.Surplus.And(replaced)
	return v, err
}

// isSharedMissing reports whether something of the node is missing that is for all links: a
// chain, or a network of the cluster that is configured.
func (v *view) isSharedMissing() bool {
	return slices.ContainsFunc(v.Missing.Chains, egress.Chain.IsShared) ||
		slices.Contains(v.Missing.Elements, egress.UnmarkedElement()) ||
		slices.ContainsFunc(slices.Concat(v.Missing.Elements, v.Surplus.Elements), func(e egress.Element) bool {
			return e.Net.IsValid() && e.Set == egress.FamilyOf(e.Net.Addr()).Cluster()
		})
}

// intersection returns what is in both, in a's order.
func intersection[T comparable](a, b []T) []T { return egress.Missing(a, egress.Missing(a, b)) }

// lookEnding finds what goes with the flows: what the kernel has of it. Of what pods share
// nothing goes while there is another attachment that cannot be read: it may need all of it.
func (n *Node) lookEnding(all []ending) (v view, err error) {
	records, err := n.records()
	if err != nil {
		return v, err
	}
	var owners []egress.Owner
	var going, rest []egress.Attachment
	for _, e := range all {
		owners, going = append(owners, e.Owner), append(going, e.with(e.flows))
		if left := e.left(); len(left.Flows) > 0 {
			rest = append(rest, left)
		}
	}
	rest = append(rest, records.Concerning(egress.Pods(going...), owners...)...)
	v.Surplus, v.Ended = egress.Ended(going, rest)
	v.Remove = len(rest) == 0
	if slices.ContainsFunc(records.Damaged, func(d *record.DamagedError) bool { return !slices.Contains(owners, d.Owner()) }) {
		v.Surplus, v.Remove = v.Surplus.Own(), false
	}
	gone := v.Surplus
	v.Surplus.Routes = gone.Own().Routes
	for a, f := range egress.Flows(going...) {
		t := a.Table(f)
		if !slices.Contains(gone.Routes, t.Closing()) || slices.ContainsFunc(v.over, func(o egress.Table) bool { return o.Key() == t.Key() }) {
			continue
		}
		v.over = append(v.over, t)
		routes, _, err := n.kernel.TableRoutes(t.Family, t.Table, t.Index, nil)
		if err != nil {
			return v, err
		}
		v.Surplus.Routes = append(v.Surplus.Routes, egress.Missing(routes, v.Surplus.Routes)...)
	}
	if v.classified, err = n.kernel.ClassificationAt(egress.State{Elements: gone.Elements}); err != nil {
		return v, err
	}
	v.Surplus.Elements = intersection(gone.Elements, v.classified.Elements)
	if len(gone.Chains) > 0 {
		arrived, err := n.kernel.ArrivedElements(gone.Chains)
		if err != nil {
			return v, err
		}
		v.Surplus.Elements = append(v.Surplus.Elements, egress.Missing(arrived, v.Surplus.Elements)...)
	}
	return v, nil
}

// lookStray finds all that the kernel has for a pod address.
func (n *Node) lookStray(pod netip.Addr) (v view, err error) {
	v.Ended = []netip.Addr{pod}
	if v.Surplus.Elements, err = n.kernel.PodElements(func(e egress.Element) bool { return e.Pod == pod }); err != nil {
		return v, err
	}
	rules, err := n.kernel.Rules(egress.FamilyOf(pod))
	for _, r := range rules {
		if r.From == egress.Host(pod) && r.Table > egress.LocalTable {
			v.Surplus.Rules = append(v.Surplus.Rules, r)
			v.Surplus.Routes = append(v.Surplus.Routes, egress.Flow{Pod: pod, Table: r.Table}.PodThrow())
		}
	}
	return v, err
}
