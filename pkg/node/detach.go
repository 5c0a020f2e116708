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
	_, ok, err := store.Find(o)
	if damaged := (*record.DamagedError)(nil); errors.As(err, &damaged) {
		return true, nil
	}
	if unread := (*record.UnreadError)(nil); errors.As(err, &unread) {
		return false, err // it has one, whatever is in it
	}
	if err != nil {
		return false, unlessPlain(o, err)
	}
	if !ok {
		discard(store, o)
	}
	return ok, nil
}

// unlessPlain returns the error with which a record could not be read, or nil where the
// kernel has nothing of the container.
func unlessPlain(o egress.Owner, unread error) error {
	n, err := Open()
	if err != nil {
		return errors.Join(unread, err)
	}
	defer n.Close()
	elements, err := n.kernel.PodElements(func(e egress.Element) bool { return e.Owner == o.Comment() })
	if err != nil {
		return errors.Join(unread, err)
	}
	if len(elements) > 0 {
		return unread
	}
	slog.Warn("the record cannot be read; the kernel has nothing of this container, so it has no egress", "container", o.ContainerID, "error", unread)
	return nil
}

// Detach is DEL. It needs nothing but the record, and does nothing for an
// attachment that has none. Where there is a network namespace at the path netns, the pod
// is silent from now on: it would leave as a plain pod until the main plugin has deleted its link.
func (n *Node) Detach(o egress.Owner, netns string) error {
	if err := n.lock(); err != nil {
		return err
	}
	a, ok, err := n.store.Find(o)
	damaged := (*record.DamagedError)(nil)
	isDamaged := errors.As(err, &damaged)
	if !isDamaged && (err != nil || !ok) {
		return err
	}
	pods, err := n.podsOf(o, a)
	if err == nil {
		err = kernel.Silence(netns, o.IfName, pods)
	}
	if err != nil {
		// Its link is about to be deleted, and is not where DEL fails.
		slog.Warn("what the pod sends until its link is deleted is not dropped", "container", o.ContainerID, "error", err)
	}
	if isDamaged {
		return n.detachDamaged(damaged)
	}
	return n.end(ending{a, a.Flows})
}

// podsOf returns the pod addresses of an attachment: of one whose record cannot be read, so that
// it has no flows, those that the kernel knows by their owner.
func (n *Node) podsOf(o egress.Owner, a egress.Attachment) ([]netip.Addr, error) {
	pods := podsOf([]egress.Attachment{a})
	if len(pods) > 0 {
		return pods, nil
	}
	elements, err := n.kernel.PodElements(func(e egress.Element) bool { return e.Owner == o.Comment() })
	for _, e := range elements {
		pods = append(pods, e.Pod)
	}
	return pods, err
}

// discard clears away what a call that was killed has left beside records. It is in
// nobody's way, so where it cannot be removed it stays.
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

// end converges what flows of attachments have, as if they were not recorded, and then forgets
// them.
func (n *Node) end(all ...ending) error {
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
