package node

import (
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/egress-ip/egress-ip/pkg/egress"
	"github.com/egress-ip/egress-ip/pkg/kernel"
	"github.com/egress-ip/egress-ip/pkg/record"
)

// converge makes the kernel what the intents say, within the scope of a look: it looks, and
// applies the difference. Every call that changes something changes intents, and then does
// this.
//
//   - ADD records the attachment, its links' tables and the cluster networks, converges their
//     scope ([Node.lookFor]), and looks again: what is missing, or in the way, fails it. Then
//     the attachment ends as with a DEL.
//   - DEL, GC, and an ADD for the address of a dead pod record that it ends, converge the scope of
//     that, as if it were not recorded ([Node.lookEnding]), and remove its record last.
//   - resync, and whoever meets something broken that attachments share, converge the node
//     ([Node.look]).
//
// What is recorded is written before the kernel, and removed behind it. So after a kill at any
// instruction the record names all that the kernel may have, and a later DEL, GC or resync
// finishes: each step looks before it writes, and can be taken twice.
func (n *Node) converge(look func() (view, error)) error {
	const tries = 3
	for try := 1; ; try++ {
		v, err := look()
		if err == nil {
			err = n.apply(&v)
		}
		if !errors.Is(err, kernel.ErrChanged) || try == tries {
			return err
		}
	}
}

// apply records what is to be added, has the kernel follow ([kernel.Kernel.Apply] has the
// order), and forgets what has been deleted. In the scope of the whole node it goes on after an
// error.
func (n *Node) apply(v *view) error {
	if err := n.record(v); err != nil {
		return err // without it nobody would find what is about to be written
	}
	c := v.Change
	c.Replace = v.classified.Former
	for _, l := range v.unmarked {
		c.Marked = append(c.Marked, l.Name)
	}
	if v.whole {
		c.Ended = append(slices.Clone(c.Ended), v.unrecorded()...)
		c.Suspects, c.Inside = v.suspects()
	}
	err := n.kernel.Apply(c, v.whole)
	if v.whole && len(v.probe.changes()) > 0 {
		err = errors.Join(err, n.writeProbe(v.probe))
	}
	if v.whole && len(v.classified.Dropped) > 0 {
		err = errors.Join(err, n.kernel.ForgetDrops()) // what goes on being dropped shows again
	}
	if err != nil {
		return err // what is recorded stays, for the next try
	}
	return n.forget(v)
}

// record records what the kernel is about to have for several attachments, and repairs
// the record itself.
func (n *Node) record(v *view) error {
	if len(v.unmarked) > 0 {
		// Beside those of before.
		before, err := n.markedLinks()
		if err != nil {
			return err
		}
		all := append(egress.Missing(before, v.unmarked), v.unmarked...)
		slices.SortFunc(all, func(a, b record.MarkedLink) int { return strings.Compare(a.Name, b.Name) })
		if err := n.store.PutMarkedLinks(all); err != nil {
			return err
		}
	}
	for i, a := range v.attached {
		if slices.Equal(a.Flows, v.recorded[i].Flows) {
			continue
		}
		slog.Info("a link has another name, ifindex or address, or is in another VRF; its pod is recorded again", "container", a.ContainerID)
		if err := n.put(a); err != nil {
			return err
		}
	}
	if err := n.setAside(v.unknown.Damaged); err != nil {
		return err
	}
	if err := n.store.RemoveLeftovers(slices.Sorted(maps.Keys(v.faults))); err != nil {
		return err
	}
	if v.recluster {
		if err := n.store.PutCluster(v.cluster); err != nil {
			return err
		}
	}
	for _, t := range v.Tables {
		if v.isRecorded(t) {
			continue
		}
		if err := n.store.PutTable(t); err != nil {
			return err
		}
	}
	return nil
}

// forget removes from the record of the node what nothing needs any more.
func (n *Node) forget(v *view) error {
	if v.UnmarkAll {
		if err := n.store.RemoveSrcValidMark(); err != nil {
			return err
		}
	}
	for _, a := range v.unfinished {
		n.read = nil
		if err := n.store.Remove(a); err != nil {
			return err
		}
	}
	for _, t := range v.over {
		if err := n.store.RemoveTable(t.Table, t.Family); err != nil {
			return err
		}
	}
	if v.whole || len(v.over) > 0 {
		n.nameTables()
	}
	if !v.Remove {
		return nil
	}
	if err := n.resetSrcValidMark(); err != nil {
		return err
	}
	if err := n.store.RemoveCluster(); err != nil {
		return err
	}
	n.store.Prune()
	return nil
}

// resetSrcValidMark puts back what egress-ip has changed, on links that still exist, by
// whatever name, and what versions have changed that set the sysctl for every link.
func (n *Node) resetSrcValidMark() error {
	links, err := n.markedLinks()
	if err != nil {
		return err
	}
	var errs []error
	for _, l := range links {
		errs = append(errs, kernel.SetSrcValidMark(l.Name, false))
	}
	all, err := n.store.HasSrcValidMark()
	if errs = append(errs, err); all {
		errs = append(errs, kernel.SetSrcValidMark(kernel.AllLinks, false))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if err := n.store.RemoveSrcValidMark(); err != nil {
		return err
	}
	return n.store.RemoveMarkedLinks()
}

// markedLinks returns those of the recorded links that exist, by their names of today.
func (n *Node) markedLinks() ([]record.MarkedLink, error) {
	recorded, err := n.store.MarkedLinks()
	if err != nil || len(recorded) == 0 {
		return nil, err
	}
	var indexes []int
	for _, l := range recorded {
		indexes = append(indexes, l.Index)
	}
	links, err := n.kernel.Links(nil, indexes)
	var marked []record.MarkedLink
	for _, l := range links {
		marked = append(marked, record.MarkedLink{Index: l.Index, Name: l.Name})
	}
	return marked, err
}

// suspects returns the flows of pods that may have opened connections while something of theirs was
// not as it should be, and the destinations that are none of egress-ip's: conntrack would keep such
// a connection's wrong source for as long as it lives. What has the egress address stays, so
// that connections of before go on.
func (v *view) suspects() (flows []egress.Flow, inside map[egress.Family][]netip.Prefix) {
	suspect := map[netip.Addr]bool{}
	all := v.misled()
	for _, e := range slices.Concat(v.Missing.Elements, v.Surplus.Elements) {
		suspect[e.Pod] = true
		all = all || !ofPod(e)
	}
	inside = map[egress.Family][]netip.Prefix{}
	for _, f := range egress.OwnFlows(v.attached) {
		if v.without[f.Pod] {
			f.Address = netip.Addr{} // it has none: no connection's is right
		}
		if all || suspect[f.Pod] {
			flows = append(flows, f)
		}
		inside[f.Family()] = append(inside[f.Family()], egress.Host(f.Pod))
	}
	for _, a := range v.addresses {
		family := egress.FamilyOf(a.Network.Addr())
		inside[family] = append(inside[family], egress.Host(a.Network.Addr()))
	}
	for _, t := range v.Tables {
		inside[t.Family] = append(inside[t.Family], t.Thrown...)
	}
	return flows, inside
}

// misled reports whether packets of any pod can have gone a wrong way. Without a throw
// they cannot, the classification sees to that; and the throw of a single address is
// a pod's, which has gone.
func (v *view) misled() bool {
	return len(v.Missing.Rules)+len(v.Surplus.Rules)+len(v.Missing.Chains)+len(v.Surplus.Chains) > 0 ||
		slices.ContainsFunc(v.Missing.Routes, func(r egress.Route) bool { return r.Type != egress.Throw }) ||
		slices.ContainsFunc(v.Surplus.Routes, func(r egress.Route) bool { return !r.IsPodThrow() })
}

// ofPod reports whether an element is about one pod's packets.
func ofPod(e egress.Element) bool {
	f := egress.FamilyOf(e.Pod)
	return e.Pod.IsValid() && (e.Set == f.Out() || e.Set == f.Back() || e.Set == f.SNAT())
}

// unrecorded returns the pods that have rules or elements and no attachment.
func (v *view) unrecorded() []netip.Addr {
	var pods []netip.Addr
	for _, r := range v.Surplus.Rules {
		pods = append(pods, r.OwnPod())
	}
	for _, e := range v.Surplus.Elements {
		if ofPod(e) {
			pods = append(pods, e.Pod)
		}
	}
	slices.SortFunc(pods, netip.Addr.Compare)
	return slices.DeleteFunc(slices.Compact(pods), func(pod netip.Addr) bool {
		_, recorded := v.owners[pod]
		return recorded || !pod.IsValid()
	})
}

// view is a node, or a part of it, at one moment: what is recorded, what is to exist for that,
// what does, and what follows from it.
type view struct {
	kernel.Change // what the kernel has to do
	whole         bool
	name          egress.LinkName

	ending     []egress.Owner
	unfinished []egress.Attachment // whose DEL was killed, or has failed
	recorded   []egress.Attachment
	attached   []egress.Attachment // recorded, on the links of today, and with their addresses
	without    map[netip.Addr]bool // pod addresses whose link has no address of its own for them
	owners     map[netip.Addr]egress.Owner
	links      []egress.Link // that attachments are recorded on, as far as they are there
	addresses  []egress.LinkAddress
	before     []egress.Table // as recorded
	over       []egress.Table // of these, those that no attachment needs
	cluster    []netip.Prefix // as configured, of the last ADD
	recluster  bool           // which is to be recorded
	unknown    record.Unknown
	faults     map[string]error // damaged files of the node itself, by path; nil: nothing needs the file

	classified kernel.Classified
	astray     []egress.Route   // of others, in links' tables
	unread     []error          // parts of the node that could not be read; nothing is wanted of them, nor there
	noRoutes   bool             // the links' tables are such a part
	absent     []egress.Address // that the links should have of their own

	probe    probeView
	unmarked []record.MarkedLink // whose src_valid_mark is to be set
}

func (v *view) isRecorded(t egress.Table) bool { return slices.ContainsFunc(v.before, t.Equal) }

// miss notes that a part could not be read, once.
func (v *view) miss(err error) {
	if err != nil && !slices.ContainsFunc(v.unread, func(other error) bool { return other.Error() == err.Error() }) {
		v.unread = append(v.unread, err)
	}
}
