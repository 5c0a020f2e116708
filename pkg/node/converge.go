package node

import (
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"slices"

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
//   - DEL, GC, and an ADD for the address of a dead pod converge the scope of what ends, as if
//     it were not recorded ([Node.lookEnding]), and remove its record last.
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
	err := n.kernel.Apply(v.change(), v.whole)
	if v.whole {
		err = errors.Join(err, n.repairRest(v))
	}
	if err != nil {
		return err // what is recorded stays, for the next try
	}
	return n.forget(v)
}

// change is what the kernel has to do.
func (v *view) change() kernel.Change {
	c := kernel.Change{
		Missing: v.missing, Surplus: v.surplus, Want: v.want.And(v.spared), Have: v.have.And(v.spared), Tables: v.tables,
		UnmarkAll: v.forAllLinks, Ended: v.ended, Fresh: v.fresh, Replace: v.classified.Former, Remove: v.last,
	}
	for _, l := range v.unmarked {
		c.Marked = append(c.Marked, l.Name)
	}
	if v.whole {
		c.Ended = append(slices.Clone(c.Ended), v.unrecorded()...)
		c.Suspects, c.Inside = v.suspects()
	}
	return c
}

// record records what the kernel is about to have for several attachments, and repairs
// the record itself.
func (n *Node) record(v *view) error {
	if len(v.unmarked) > 0 {
		if err := n.recordMarks(v.unmarked); err != nil {
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
	for _, t := range v.tables {
		if v.isRecorded(t.Table) {
			continue
		}
		if err := n.store.PutTable(t.Table); err != nil {
			return err
		}
		v.rename = true
	}
	return nil
}

// repairRest is what only a resync has an eye on.
func (n *Node) repairRest(v *view) error {
	var errs []error
	if len(v.probe.changes()) > 0 {
		errs = append(errs, n.writeProbe(v.probe.Probe, v.probe.right))
	}
	if len(v.classified.Dropped) > 0 {
		errs = append(errs, n.kernel.ForgetDrops()) // what goes on being dropped shows again
	}
	return errors.Join(errs...)
}

// forget removes from the record of the node what nothing needs any more.
func (n *Node) forget(v *view) error {
	if v.forAllLinks {
		if err := n.store.RemoveSrcValidMark(); err != nil {
			return err
		}
	}
	for _, t := range v.over {
		if err := n.store.RemoveTable(t.Table, t.Family); err != nil {
			return err
		}
	}
	if v.rename || v.whole || len(v.over) > 0 {
		n.nameTables()
	}
	if !v.last {
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

// suspects returns the flows of pods that may have opened connections while something of theirs was
// not as it should be, and the destinations that are none of egress-ip's: conntrack would keep such
// a connection's wrong source for as long as it lives. What has the egress address stays, so
// that connections of before go on.
func (v *view) suspects() (flows []egress.Flow, inside map[egress.Family][]netip.Prefix) {
	suspect := map[netip.Addr]bool{}
	all := v.misled()
	for _, e := range slices.Concat(v.missing.Elements, v.surplus.Elements) {
		suspect[e.Pod] = true
		all = all || !ofPod(e)
	}
	inside = map[egress.Family][]netip.Prefix{}
	for _, a := range v.attached {
		for _, f := range v.mine(a) {
			if v.without[f.Pod] {
				f.Address = netip.Addr{} // it has none: no connection's is right
			}
			if all || suspect[f.Pod] {
				flows = append(flows, f)
			}
			inside[f.Family()] = append(inside[f.Family()], egress.Host(f.Pod))
		}
	}
	for _, a := range v.addresses {
		family := egress.FamilyOf(a.Network.Addr())
		inside[family] = append(inside[family], egress.Host(a.Network.Addr()))
	}
	for _, t := range v.tables {
		inside[t.Family] = append(inside[t.Family], t.Thrown...)
	}
	return flows, inside
}

// misled reports whether packets of any pod can have gone a wrong way. Without a throw
// they cannot, the classification sees to that; and the throw of a single address is
// a pod's, which has gone.
func (v *view) misled() bool {
	return len(v.missing.Rules)+len(v.surplus.Rules)+len(v.missing.Chains)+len(v.surplus.Chains) > 0 ||
		slices.ContainsFunc(v.missing.Routes, func(r egress.Route) bool { return r.Type != egress.Throw }) ||
		slices.ContainsFunc(v.surplus.Routes, func(r egress.Route) bool { return !r.IsPodThrow() })
}

// ofPod reports whether an element is about one pod's packets.
func ofPod(e egress.Element) bool {
	f := egress.FamilyOf(e.Pod)
	return e.Pod.IsValid() && (e.Set == f.Out() || e.Set == f.Back() || e.Set == f.SNAT())
}

// unrecorded returns the pods that have rules or elements and no attachment.
func (v *view) unrecorded() []netip.Addr {
	var pods []netip.Addr
	for _, r := range v.surplus.Rules {
		pods = append(pods, r.From)
	}
	for _, e := range v.surplus.Elements {
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

func (v *view) isRecorded(t egress.Table) bool { return slices.ContainsFunc(v.before, t.Equal) }

// miss notes that a part could not be read, once.
func (v *view) miss(err error) {
	if err != nil && !slices.ContainsFunc(v.unread, func(other error) bool { return other.Error() == err.Error() }) {
		v.unread = append(v.unread, err)
	}
}

// view is a node, or a part of it, at one moment: what is recorded, what is to exist for that,
// and what does.
type view struct {
	whole     bool
	last      bool // nothing is recorded, or will be once this has been applied
	ending    []egress.Owner
	recorded  []egress.Attachment
	attached  []egress.Attachment // recorded, on the links of today, and with their addresses
	without   map[netip.Addr]bool // pod addresses whose link has no address of its own for them
	owners    map[netip.Addr]egress.Owner
	links     []egress.Link // that attachments are recorded on, as far as they are there
	addresses []egress.LinkAddress
	tables    []egress.LinkTable
	before    []egress.Table // as recorded
	over      []egress.Table // of these, those that no attachment needs
	rename    bool           // tables may be new
	ended     []netip.Addr   // pod addresses whose egress ends
	fresh     []netip.Addr   // and those that have new flows
	cluster   []netip.Prefix // as configured, of the last ADD
	recluster bool           // which is to be recorded
	unknown   record.Unknown
	faults    map[string]error // damaged files of the node itself, by path; nil: nothing needs the file

	want, have       egress.State
	missing, surplus egress.State // their differences, without what is spared
	spared           egress.State // what an attachment may need that cannot be read
	classified       kernel.Classified
	astray           []egress.Route   // of others, in links' tables
	inTheWay         []string         // of others, as text
	unread           []error          // parts of the node that could not be read; nothing is wanted of them, nor there
	noRoutes         bool             // the links' tables are such a part
	noClasses        bool             // and so is the table inet egress_ip
	names            map[int]string   // of the links at which something was dropped
	absent           []egress.Address // that the links should have of their own

	probe       probeView
	unmarked    []record.MarkedLink // whose src_valid_mark is to be set
	forAllLinks bool                // it is set for all links, by an earlier version
}
