package node

import (
	"errors"
	"log/slog"
	"net/netip"
	"slices"

	"github.com/egress-ip/egress-ip/pkg/egress"
	"github.com/egress-ip/egress-ip/pkg/record"
)

// detachDamaged is the DEL of an attachment of which there is a record that cannot be
// read. The kernel's elements name their owner, and so tell which addresses the container
// had; what hangs on those goes, and what no other attachment needs.
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
	v.surplus.Routes = slices.DeleteFunc(v.surplus.Routes, func(r egress.Route) bool {
		return !r.IsPodThrow() && slices.ContainsFunc(v.tables, func(t egress.LinkTable) bool { return t.Has(r) })
	})
	v.recorded, v.attached, v.tables, v.faults, v.missing = nil, nil, nil, nil, egress.State{}
	v.recluster, v.unmarked, v.forAllLinks, v.classified.Dropped, v.probe = false, nil, false, nil, probeView{right: true, recorded: true}
}

// spare takes out of what no record asks for what an attachment may need of which only the
// owner is known: the elements that name its container, and whatever has no owner that is known. So
// its pod keeps its egress, or is refused, but does not leave by the primary link.
func (v *view) spare(surplus egress.State) (left egress.State) {
	if v.unknown.Len() == 0 {
		return surplus
	}
	owners := map[string]bool{}
	for _, o := range v.unknown.Owners() {
		owners[o.Comment()] = true
	}
	known := map[netip.Addr]bool{}
	for pod := range v.owners {
		known[pod] = true
	}
	for _, e := range surplus.Elements {
		if e.Pod.IsValid() && (known[e.Pod] || !owners[e.Owner]) {
			left.Elements = append(left.Elements, e)
		}
	}
	for _, e := range left.Elements {
		known[e.Pod] = true
	}
	for _, r := range surplus.Rules {
		if known[r.From] {
			left.Rules = append(left.Rules, r)
		}
	}
	for _, r := range surplus.Routes {
		wanted := slices.ContainsFunc(v.tables, func(t egress.LinkTable) bool { return t.Has(r) })
		if known[r.Dst.Addr()] && r.IsPodThrow() || wanted && !r.IsPodThrow() {
			left.Routes = append(left.Routes, r)
		}
	}
	left.Addresses = surplus.Addresses // those of attachments that can be read
	return left
}
