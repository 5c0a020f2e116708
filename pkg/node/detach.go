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
	if err := n.lockToChange(); err != nil {
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
	return n.detach(a, a.Flows)
}

// podsOf returns the pod addresses of an attachment: of one whose record cannot be read, so that
// it has no flows, those that the kernel knows by their owner.
func (n *Node) podsOf(o egress.Owner, a egress.Attachment) ([]netip.Addr, error) {
	var pods []netip.Addr
	for _, f := range a.Flows {
		pods = append(pods, f.Pod)
	}
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

// detach takes flows of an attachment away, and the attachment with its last flow.
// A shared object goes with the last that needs it, and a pod address's own
// objects only while the address is this attachment's.
func (n *Node) detach(a egress.Attachment, flows []egress.Flow) error {
	mine, err := n.mine(a, flows)
	if err != nil {
		return err
	}
	left := slices.DeleteFunc(slices.Clone(a.Flows), func(f egress.Flow) bool { return slices.Contains(flows, f) })
	unneeded, err := n.unneeded(a, flows, left)
	if err != nil {
		return err
	}
	// Before, so that what servers still send to the pod no longer gets there, and its kernel, which would refuse it,
	// does not answer by main with the egress address; and behind, for what has been opened in between.
	if err := n.deleteConntrack(mine); err != nil {
		return err
	}
	if err := n.declassify(a, mine, flows, unneeded); err != nil {
		return err
	}
	if err := n.deleteRules(a, mine, flows, unneeded); err != nil {
		return err
	}
	if err := n.deleteConntrack(mine); err != nil {
		return err
	}
	for _, f := range flows {
		if f.OwnsAddress && slices.Contains(unneeded, egress.AddressObject(f)) {
			if err := n.kernel.DeleteAddress(f.HostAddress()); err != nil {
				return err
			}
		}
	}
	for _, f := range flows {
		if slices.Contains(unneeded, egress.TableObject(f)) {
			if err := n.clearTable(f); err != nil {
				return err
			}
		} else if slices.Contains(mine, f) {
			if err := n.kernel.DeleteRoute(f.PodThrow()); err != nil {
				return err
			}
		}
		// An ADD that was killed may have left it, and the table may stay.
		if err := n.store.DiscardTable(f.Table, f.Family()); err != nil {
			return err
		}
	}
	if slices.ContainsFunc(flows, func(f egress.Flow) bool { return slices.Contains(unneeded, egress.TableObject(f)) }) {
		n.nameTables()
	}
	if slices.Contains(unneeded, egress.ClassificationObject) {
		if err := n.resetSrcValidMark(); err != nil {
			return err
		}
		if err := n.store.RemoveCluster(); err != nil {
			return err
		}
	}
	if len(left) == 0 {
		if n.read != nil {
			n.read.Drop(a.Owner)
		}
		return n.store.Remove(a)
	}
	a.Flows = left
	return n.put(a)
}

// declassify takes the flows out of nftables, with their links' chains where
// nobody else needs those, and the table with the last.
func (n *Node) declassify(a egress.Attachment, mine, flows []egress.Flow, unneeded []egress.Object) error {
	if slices.Contains(unneeded, egress.ClassificationObject) {
		return n.kernel.DeleteClassification()
	}
	gone := kernel.Gone{Elements: a.Classes(mine...).PodElements()}
	for _, f := range flows {
		if slices.Contains(unneeded, egress.LinkObject(f)) && !slices.Contains(gone.Links, f.Index) {
			gone.Links = append(gone.Links, f.Index)
		}
		if slices.Contains(unneeded, a.OutObject(f)) && !slices.Contains(gone.Chains, a.OutChain(f)) {
			gone.Chains = append(gone.Chains, a.OutChain(f))
		}
		if !slices.Contains(unneeded, egress.AddressObject(f)) {
			continue
		}
		for _, e := range a.Classes(f).SharedElements() {
			// The node may have the address beside egress-ip.
			if e.Set == f.Family().Exit() || e.Set == f.Family().Out() || e.Set == f.Family().Arrived() && f.OwnsAddress {
				gone.Elements = append(gone.Elements, e)
			}
		}
	}
	return n.kernel.Declassify(gone)
}

// deleteRules deletes in the order opposite to that of ADD.
func (n *Node) deleteRules(a egress.Attachment, mine, flows []egress.Flow, unneeded []egress.Object) error {
	for _, f := range mine {
		if err := n.kernel.DeleteSourceRule(a.SourceRule(f)); err != nil {
			return err
		}
	}
	for _, f := range flows {
		for _, r := range slices.Backward(a.SharedRules(f)) {
			if !slices.Contains(unneeded, egress.RuleObject(r)) {
				continue
			}
			if err := n.kernel.DeleteRule(r); err != nil {
				return err
			}
		}
	}
	return nil
}
