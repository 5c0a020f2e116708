package node

import (
	"slices"

	"github.com/egress-ip/egress-ip/pkg/egress"
	"github.com/egress-ip/egress-ip/pkg/record"
)

// Recorded reports whether an attachment has a record, and so something for
// Detach to do. Where it has none, what a killed call has left is cleared away.
func Recorded(o egress.Owner) (bool, error) {
	store, err := record.Open()
	if err != nil {
		return false, err
	}
	if _, ok, err := store.Find(o); err != nil || ok {
		return ok, err
	}
	return false, discard(store, o)
}

// Detach is DEL. It needs nothing but the record, and does nothing for an
// attachment that has none.
func (n *Node) Detach(o egress.Owner) error {
	if err := n.lock(); err != nil {
		return err
	}
	a, ok, err := n.store.Find(o)
	if err != nil || !ok {
		return err
	}
	return n.detach(a, a.Flows)
}

// discard clears away what a call that was killed has left beside records.
func discard(store record.Store, o egress.Owner) error {
	if err := store.Discard(o); err != nil || !store.Abandoned() {
		return err
	}
	// Another call may be about to write into the folders.
	unlock, err := record.Lock()
	if err != nil {
		return err
	}
	defer unlock()
	store.Prune()
	return nil
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
	if err := n.declassify(a, mine, flows, unneeded); err != nil {
		return err
	}
	if err := n.deleteRules(a, mine, flows, unneeded); err != nil {
		return err
	}
	for _, f := range mine {
		if err := n.kernel.DeleteConntrack(f.Pod); err != nil {
			return err
		}
	}
	for _, f := range flows {
		if f.OwnsAddress && slices.Contains(unneeded, record.AddressObject(f)) {
			if err := n.kernel.DeleteAddress(f.HostAddress()); err != nil {
				return err
			}
		}
	}
	for _, f := range flows {
		if slices.Contains(unneeded, record.TableObject(f)) {
			if err := n.clearTable(f.Table, f.Family()); err != nil {
				return err
			}
		} else if slices.Contains(mine, f) {
			if err := n.kernel.DeleteRoute(f.PodThrow()); err != nil {
				return err
			}
		}
	}
	if slices.ContainsFunc(flows, func(f egress.Flow) bool { return slices.Contains(unneeded, record.TableObject(f)) }) {
		n.nameTables()
	}
	if slices.Contains(unneeded, record.Classification) {
		if err := n.resetSrcValidMark(); err != nil {
			return err
		}
		if err := n.store.RemoveCluster(); err != nil {
			return err
		}
	}
	if len(left) == 0 {
		return n.store.Remove(a)
	}
	if err := n.store.Release(a, flows...); err != nil {
		return err
	}
	a.Flows = left
	return n.store.Put(a)
}

// declassify takes the flows out of nftables, with their links' chains where
// nobody else needs those, and the table with the last.
func (n *Node) declassify(a egress.Attachment, mine, flows []egress.Flow, unneeded []record.Object) error {
	if slices.Contains(unneeded, record.Classification) {
		return n.kernel.DeleteClassification()
	}
	var chains []string
	for _, f := range flows {
		if slices.Contains(unneeded, record.LinkObject(f)) {
			chains = append(chains, egress.OutChain(f.Index), egress.BackChain(f.Index))
		}
		if slices.Contains(unneeded, record.CountedObject(f)) {
			chains = append(chains, egress.CountedChain(f.Index))
		}
	}
	slices.Sort(chains) // two flows may be on one link
	return n.kernel.Declassify(a.Classes(mine...), slices.Compact(chains), slices.Contains(unneeded, record.Counters))
}

// deleteRules deletes in the order opposite to that of ADD.
func (n *Node) deleteRules(a egress.Attachment, mine, flows []egress.Flow, unneeded []record.Object) error {
	for _, f := range mine {
		if err := n.kernel.DeleteSourceRule(a.SourceRule(f)); err != nil {
			return err
		}
	}
	for _, f := range flows {
		for _, r := range slices.Backward(a.SharedRules(f)) {
			if !slices.Contains(unneeded, record.RuleObject(r)) {
				continue
			}
			if err := n.kernel.DeleteRule(r); err != nil {
				return err
			}
		}
	}
	return nil
}

// mine returns the flows whose pod address no other attachment has taken over.
func (n *Node) mine(a egress.Attachment, flows []egress.Flow) ([]egress.Flow, error) {
	var mine []egress.Flow
	for _, f := range flows {
		owner, taken, err := n.store.OwnerOf(f.Pod)
		if err != nil {
			return nil, err
		}
		if !taken || owner == a.Owner {
			mine = append(mine, f)
		}
	}
	return mine, nil
}

// unneeded returns the shared objects of flows that nobody else needs: neither
// another attachment nor the flows that this one keeps.
func (n *Node) unneeded(a egress.Attachment, flows, left []egress.Flow) ([]record.Object, error) {
	kept := record.Shared(a, left...)
	var unneeded []record.Object
	for _, object := range record.Shared(a, flows...) {
		others, err := n.store.Others(object, a.Owner)
		if err != nil {
			return nil, err
		}
		if len(others) == 0 && !slices.Contains(kept, object) {
			unneeded = append(unneeded, object)
		}
	}
	return unneeded, nil
}
