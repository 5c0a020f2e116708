package node

import (
	"errors"
	"log/slog"
	"slices"
	"time"

	"github.com/egress-ip/egress-ip/pkg/egress"
)

// key is what tables are told apart by.
type key struct {
	table  uint32
	family egress.Family
}

// ReadError says that the node could not be read, so that nothing has been changed.
type ReadError struct{ err error }

func (e *ReadError) Error() string { return e.err.Error() }
func (e *ReadError) Unwrap() error { return e.err }

// look reads the node. It changes nothing. The attachments of those who are ending count
// as none. The error is a [ReadError].
func (n *Node) look(ending ...egress.Owner) (view, error) {
	v, begun := view{whole: true, ending: ending}, time.Now()
	for _, step := range []func(*view) error{
		n.lookAtRecord, n.lookForFaults, n.lookAtTables, n.lookAtCluster, n.lookAtClassification, n.lookAtAllRules, n.lookAtAllRoutes,
		n.lookAtAllAddresses, n.lookForUnmarked,
	} {
		if err := step(&v); err != nil {
			return view{}, &ReadError{err}
		}
	}
	if err := n.lookAtProbe(&v); err != nil {
		v.miss(err)
		v.probe = probeView{right: true, recorded: true}
	}
	var surplus egress.State
	v.missing, surplus = v.want.Less(v.have)
	v.surplus = v.spare(surplus)
	v.spared, _ = surplus.Less(v.surplus)
	v.have, _ = v.have.Less(v.spared)
	v.last = len(v.attached)+v.unknown.Len() == 0
	slog.Debug("read the node", "record", n.store.Dir(), "attachments", len(v.attached), "links", len(v.links),
		"unread", errors.Join(v.unread...), "took", time.Since(begun))
	return v, nil
}

// lookForFaults finds what calls that were killed have left of the record, and which files
// of the node itself are damaged.
func (n *Node) lookForFaults(v *view) (err error) {
	v.faults, err = n.store.Damaged()
	v.miss(err)
	left, err := n.store.Leftovers()
	v.miss(err)
	for _, path := range left {
		v.faults[path] = nil
	}
	return nil
}

func (n *Node) lookAtRecord(v *view) (err error) {
	if v.recorded, v.unknown, err = n.store.List(); err != nil {
		return err
	}
	v.recorded = slices.DeleteFunc(v.recorded, func(a egress.Attachment) bool { return slices.Contains(v.ending, a.Owner) })
	v.unknown = v.unknown.Without(v.ending)
	for _, e := range v.unknown.Unread {
		v.miss(e)
	}
	v.before, err = n.store.Tables()
	v.miss(err)
	v.noRoutes = err != nil
	var names []string
	var indexes []int
	for _, a := range v.recorded {
		for _, f := range a.Flows {
			if !slices.Contains(indexes, f.Index) {
				indexes = append(indexes, f.Index)
			}
			if !slices.Contains(names, f.Link) {
				names = append(names, f.Link)
			}
		}
	}
	if v.links, err = n.kernel.Links(names, indexes); err != nil {
		return err
	}
	if v.addresses, err = n.kernel.Addresses(); err != nil {
		return err
	}
	vrfs, err := n.vrfRules(v.links)
	if err != nil {
		return err
	}
	now := egress.Node{Links: v.links, Addresses: v.addresses, VRFs: vrfs}
	v.attached, v.without = egress.Follow(egress.Relocate(v.recorded, now), now)
	v.owners = egress.Owners(v.attached)
	return nil
}

// mine returns the flows of an attachment whose pod address nobody else has.
func (v *view) mine(a egress.Attachment) []egress.Flow {
	if !slices.ContainsFunc(a.Flows, func(f egress.Flow) bool { return v.owners[f.Pod] != a.Owner }) {
		return a.Flows
	}
	return slices.DeleteFunc(slices.Clone(a.Flows), func(f egress.Flow) bool { return v.owners[f.Pod] != a.Owner })
}

// link returns a flow's link, and whether it is there and can send. Without a carrier
// (no cable, a bond whose links are all down) the kernel keeps a link's routes, and what
// they send vanishes; such a link counts as down, so that its pods' packets are refused.
func (v *view) link(name string) (egress.Link, bool) {
	i := slices.IndexFunc(v.links, func(l egress.Link) bool { return l.Name == name })
	if i < 0 {
		return egress.Link{Name: name}, false
	}
	return v.links[i], v.links[i].Carries()
}

// lookAtTables finds what each link's table is to be, from what main has now.
func (n *Node) lookAtTables(v *view) error {
	if v.noRoutes {
		return nil
	}
	all := map[egress.Family][]egress.Route{} // of main, read when the first table asks
	seen := map[key]bool{}
	for _, a := range v.attached {
		for _, f := range v.mine(a) {
			k := key{f.Table, f.Family()}
			if seen[k] {
				continue
			}
			seen[k] = true
			t, err := n.linkTable(v, a, f, all)
			if err != nil {
				return err
			}
			v.tables = append(v.tables, t)
		}
	}
	for _, t := range v.before {
		if v.isOver(t) {
			v.over = append(v.over, t)
		}
	}
	return nil
}

// linkTable is one table as the last ADD configured it, even if the link has
// another ifindex by now.
func (n *Node) linkTable(v *view, a egress.Attachment, f egress.Flow, all map[egress.Family][]egress.Route) (t egress.LinkTable, err error) {
	t.TableSpec = a.TableSpec(f)
	for _, before := range v.before {
		if before.Family == f.Family() && (before.Table == f.Table || before.Link == f.Link && t.Thrown == nil) {
			t.Gateway, t.Cluster, t.Thrown = before.Gateway, before.Cluster, before.Thrown
		}
	}
	l, up := v.link(f.Link)
	if t.Down = !up; up {
		if t.Main, err = n.kernel.LinkRoutes(f.Family(), l.Table, l.Index); err != nil {
			return t, err
		}
	}
	t.Thrown, err = n.thrown(t.TableSpec, all)
	return t, err
}

// lookAtCluster finds out which networks the last ADD has configured, and with that what should
// exist.
func (n *Node) lookAtCluster(v *view) error {
	cluster, ok, err := n.store.Cluster()
	unread := err
	if err == nil && !ok {
		var newest egress.Attachment
		for _, a := range v.attached {
			if !a.Since.Before(newest.Since) {
				newest = a
			}
		}
		cluster, v.recluster = newest.ClusterCIDRs, len(v.attached) > 0
	}
	v.cluster = cluster
	v.want = egress.Desired(v.attached, egress.Facts{Tables: v.tables, Cluster: v.cluster, Addresses: v.addresses, Without: v.without})
	if v.noRoutes {
		v.want.Routes = nil
	}
	if unread != nil {
		v.miss(unread)
		v.noClasses = true
	}
	return nil
}

func (n *Node) lookAtClassification(v *view) (err error) {
	if !v.noClasses {
		err = n.readClassification(v)
	}
	if err != nil {
		v.miss(err)
	}
	if v.noClasses || err != nil {
		v.want.Chains, v.want.Elements = nil, nil
		v.have.Chains, v.have.Elements = nil, nil
	}
	return nil
}

func (n *Node) readClassification(v *view) (err error) {
	v.classified, err = n.kernel.Classification(v.want.Chains)
	v.have.Chains, v.have.Elements = v.classified.Chains, v.classified.Elements
	v.names = map[int]string{}
	for _, d := range slices.Concat(v.classified.Dropped, v.classified.Forged) {
		if name, err := n.kernel.Name(d.Link); err == nil {
			v.names[d.Link] = name // else it is gone by now
		}
	}
	if err != nil || len(v.want.Chains)+v.unknown.Len() > 0 || len(v.have.Chains)+len(v.have.Elements) == 0 {
		return err
	}
	// Nothing of ours is to be there; what is may be another's who uses the name.
	foreign, err := n.kernel.ClassificationIsForeign()
	if foreign {
		v.have.Chains, v.have.Elements = nil, nil
	}
	return err
}
