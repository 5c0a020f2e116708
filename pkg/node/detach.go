package node

import (
	"errors"
	"log/slog"
	"net/netip"
	"slices"

	"github.com/egress-ip/egress-ip/pkg/egress"
	"github.com/egress-ip/egress-ip/pkg/kernel"
	"github.com/egress-ip/egress-ip/pkg/record"
)

// ending is an attachment of which these flows go: all of them, or it stays.
type ending struct {
	egress.Attachment
	flows []egress.Flow
}

func (e ending) with(flows []egress.Flow) egress.Attachment {
	e.Attachment.Flows = flows
	return e.Attachment
}

func (e ending) left() egress.Attachment {
	return e.with(slices.DeleteFunc(slices.Clone(e.Flows), func(f egress.Flow) bool { return slices.Contains(e.flows, f) }))
}

// Recorded reports whether an attachment has a record, and so something for Detach to
// do. Where it has none, nothing is written, but for what a killed call has left.
//
// Where it cannot be told whether there is a record the kernel is asked: a container that has nothing
// there has no egress.
func Recorded(o egress.Owner) (bool, error) {
	store, err := record.Open()
	if err != nil {
		return false, err
	}
	_, ok, damaged, err := find(store, o)
	switch unread := (*record.UnreadError)(nil); {
	case ok || damaged != nil:
		return true, nil
	case errors.As(err, &unread):
		return false, err // it has one, whatever is in it
	case err == nil:
		discard(store, o)
		return false, nil
	}
	n, failed := Open()
	if failed != nil {
		return false, errors.Join(err, failed)
	}
	defer n.Close()
	pods, failed := n.podsOf(o)
	if failed != nil || len(pods) > 0 {
		return false, errors.Join(err, failed)
	}
	slog.Warn("the record cannot be read; the kernel has nothing of this container, so it has no egress", "container", o.ContainerID, "error", err)
	return false, nil
}

// podsOf returns the pod addresses that the kernel knows by their owner.
func (n *Node) podsOf(o egress.Owner) ([]netip.Addr, error) {
	elements, err := n.kernel.PodElements(func(e egress.Element) bool { return e.Owner == o.Comment() })
	var pods []netip.Addr
	for _, e := range elements {
		pods = append(pods, e.Pod)
	}
	return pods, err
}

// Detach is DEL. It needs nothing but the record, and does nothing for an
// attachment that has none. Where there is a network namespace at the path netns, the pod
// is silent from now on: it would leave as a plain pod until the main plugin has deleted its link.
func (n *Node) Detach(o egress.Owner, netns string) error {
	if err := n.lock(); err != nil {
		return err
	}
	a, ok, damaged, err := find(n.store, o)
	if err != nil || !ok && damaged == nil {
		return err
	}
	pods := egress.Pods(a)
	if damaged != nil {
		pods, err = n.podsOf(o)
	}
	if err == nil {
		err = kernel.Silence(netns, o.IfName, pods)
	}
	if err != nil {
		// Its link is about to be deleted, and is not where DEL fails.
		slog.Warn("what the pod sends until its link is deleted is not dropped", "container", o.ContainerID, "error", err)
	}
	if damaged != nil {
		return n.detachDamaged(damaged)
	}
	return n.end(ending{a, a.Flows})
}

// detachDamaged is the DEL of an attachment of which there is a record that cannot be
// read. The kernel's elements name their owner, and so tell which addresses the container
// had; what depends on those goes, and what no other attachment needs.
func (n *Node) detachDamaged(d *record.DamagedError) error {
	slog.Warn("the record of the container is damaged; what the kernel has of it is removed, but for an egress address that no other pod has", "error", d)
	if err := n.setAside([]*record.DamagedError{d}); err != nil {
		return err
	}
	v, err := n.look(d.Owner())
	if err == nil && v.classified.Former {
		if err = n.apply(&v); err == nil {
			v, err = n.look(d.Owner())
		}
	}
	if err := errors.Join(append(v.unread, err)...); err != nil {
		return err
	}
	v.keepDeletions()
	if err := n.apply(&v); err != nil {
		return err
	}
	n.read = nil
	return n.store.Remove(egress.Attachment{Owner: d.Owner()})
}

// keepDeletions leaves out what is a resync's: repairs, and the routes of tables that stay, but
// for the throws of pods that have gone.
func (v *view) keepDeletions() {
	v.Surplus.Routes = slices.DeleteFunc(v.Surplus.Routes, func(r egress.Route) bool { return !r.IsPodThrow() && v.isWanted(r) })
	v.recorded, v.attached, v.Tables, v.faults, v.Missing = nil, nil, nil, nil, egress.State{}
	v.recluster, v.unmarked, v.UnmarkAll, v.classified.Dropped, v.probe = false, nil, false, nil, probeView{right: true, recorded: true}
}

// discard removes what a call that was killed has left beside records. It does no harm, so where it
// cannot be removed it stays.
func discard(store record.Store, o egress.Owner) {
	if !store.Abandoned(o) {
		return
	}
	// Another call may be about to write into the directories.
	unlock, err := store.Lock()
	if err == nil {
		defer unlock()
		err = store.Discard(o)
	}
	if err != nil {
		slog.Warn("could not remove what a killed call has left of a record", "container", o.ContainerID, "error", err)
	}
}

// end records that attachments, or flows of them, end, converges what they have, and then forgets
// them.
func (n *Node) end(all ...ending) error {
	for _, e := range all {
		if len(e.left().Flows) > 0 {
			continue
		}
		if err := n.store.End(e.Owner); err != nil {
			return err
		}
	}
	if err := n.converge(func() (view, error) {
		v, err := n.lookEnding(all)
		if err != nil || !v.classified.Former {
			return v, err
		}
		// Another version, or nft, has made the table: its parts cannot be changed one by one.
		slog.Info("the table inet egress_ip is replaced: another version, or nft, has made it")
		if err := n.converge(func() (view, error) { return n.look() }); err != nil {
			return v, err
		}
		return n.lookEnding(all)
	}); err != nil {
		return err
	}
	for _, e := range all {
		for _, f := range e.flows {
			// An ADD that was killed may have left it, and the table may stay.
			if err := n.store.DiscardTable(f.Table, f.Family()); err != nil {
				return err
			}
		}
		left := e.left()
		if len(left.Flows) > 0 {
			if err := n.put(left); err != nil {
				return err
			}
			continue
		}
		if n.read != nil {
			n.read.Drop(e.Owner)
		}
		if err := n.store.Remove(left); err != nil {
			return err
		}
	}
	return nil
}

// Collect is GC: it detaches what the network has and valid does not list. It
// goes on after an error, and returns all.
func Collect(network string, valid []egress.Owner) error {
	n, err := Open()
	if err != nil {
		return err
	}
	defer n.Close()
	if err := n.lock(); err != nil {
		return err
	}
	all, unknown, err := n.store.List()
	if err != nil {
		return err
	}
	// Of which network damaged ones are is not known, so their DEL, or a clean-up, removes them.
	if err := n.setAside(unknown.Damaged); err != nil {
		return err
	}
	var failed []error
	for _, e := range unknown.Unread {
		failed = append(failed, e)
	}
	for _, a := range all {
		if a.Network == network && !slices.Contains(valid, a.Owner) {
			failed = append(failed, n.end(ending{a, a.Flows}))
		}
	}
	return errors.Join(failed...)
}
