package node

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"

	"github.com/egress-ip/egress-ip/pkg/egress"
	"github.com/egress-ip/egress-ip/pkg/names"
)

// Resync makes the kernel what the records say, and takes away what is
// egress-ip's and recorded nowhere. It returns a line for each change, and makes
// none, nor asks for the lock, where all is right. It goes on after an error, and
// returns all; what could not be read is left as it is, and among them.
func (n *Node) Resync() ([]string, error) {
	v, err := n.look()
	if err != nil {
		return nil, err
	}
	if v.right() {
		return nil, errors.Join(append(v.unread, n.hold(v))...)
	}
	// A call that is under way looks like something to repair; so look again.
	if err := n.lock(); err != nil {
		return nil, err
	}
	defer n.release()
	if v, err = n.look(); err != nil {
		return nil, err
	}
	if v.right() {
		return nil, errors.Join(append(v.unread, n.hold(v))...)
	}
	return v.changes(), errors.Join(append(v.unread, n.hold(v), n.repair(v))...)
}

// hold tells the guard, if there is one, what is wanted.
func (n *Node) hold(v view) error {
	if n.held == nil {
		return nil
	}
	return n.held.Keep(v.want.Held(v.addresses))
}

// right reports whether there is nothing to do.
func (v *view) right() bool { return len(v.changes()) == 0 }

// changes has a line for each thing that is not as it should be and can be repaired.
func (v *view) changes() []string {
	var changes []string
	for _, d := range v.unknown.Damaged {
		if !d.IsAside() {
			changes = append(changes, "set aside record "+d.Path()+", which is damaged")
		}
	}
	for _, path := range slices.Sorted(maps.Keys(v.faults)) {
		changes = append(changes, "removed record "+path+", which "+faultOf(v.faults[path]))
	}
	for i, a := range v.attached {
		if !slices.Equal(a.Flows, v.recorded[i].Flows) {
			changes = append(changes, "recorded "+a.ContainerID+" again: its link has another name, ifindex or address, or is in another VRF")
		}
	}
	changes = append(changes, prefixed("added ", v.missing.Lines(v.linkName))...)
	changes = append(changes, prefixed("removed ", v.surplus.Lines(v.linkName))...)
	for _, t := range v.tables {
		if !v.isRecorded(t.Table) {
			changes = append(changes, "recorded the "+t.Family.String()+" table of "+t.Link)
		}
	}
	for _, t := range v.before {
		if v.isOver(t) {
			changes = append(changes, "forgot the "+t.Family.String()+" table of "+t.Link)
		}
	}
	if v.recluster {
		changes = append(changes, "recorded the cluster networks")
	}
	for _, l := range v.unmarked {
		changes = append(changes, fmt.Sprintf("set net.ipv4.conf.%s.src_valid_mark to 1", l.Name))
	}
	if v.forAllLinks {
		changes = append(changes, "set net.ipv4.conf.all.src_valid_mark back to 0")
	}
	if !v.noRoutes && names.Stale(v.tableNames()) {
		changes = append(changes, "named the routing tables for iproute2")
	}
	return append(changes, v.probe.changes()...)
}

func (p probeView) changes() []string {
	switch {
	case p.foreign || p.right && p.recorded:
		return nil
	case !p.right && !p.Stands():
		return []string{"removed table ip6 egress_ip_probe"}
	case !p.right:
		return []string{"wrote table ip6 egress_ip_probe"}
	default:
		return []string{"recorded table ip6 egress_ip_probe"}
	}
}

// faultOf says why a file of the record is not to be there.
func faultOf(err error) string {
	if err == nil {
		return "nothing needs"
	}
	return "is damaged: " + err.Error()
}

func prefixed(prefix string, lines []string) []string {
	all := make([]string, 0, len(lines))
	for _, l := range lines {
		all = append(all, prefix+l)
	}
	return all
}

func (v *view) isRecorded(t egress.Table) bool { return slices.ContainsFunc(v.before, t.Equal) }

// isOver reports whether no attachment needs a table that is recorded. One that cannot be
// read may need any.
func (v *view) isOver(t egress.Table) bool {
	return v.unknown.Len() == 0 && !slices.ContainsFunc(v.tables, func(w linkTable) bool {
		return w.Table.Table == t.Table && w.Family == t.Family
	})
}

// repair writes in the order of ADD and deletes in that of DEL: the record first,
// routes, addresses, rules, nftables; then what is surplus; what is not to be
// recorded any more last.
func (n *Node) repair(v view) error {
	missing, surplus := v.missing, v.surplus
	if err := n.recordAnew(v); err != nil {
		return err // without it nobody would find what is about to be written
	}
	errs := []error{
		n.repairRoutes(v),
		n.repairAddresses(missing.Addresses),
	}
	if len(v.unmarked) > 0 || v.forAllLinks {
		errs = append(errs, n.setSrcValidMark(v.unmarked))
	}
	errs = append(errs,
		n.repairRules(missing.Rules),
		n.repairClassification(v, missing, surplus),
		n.removeSurplus(v, surplus),
		n.repairConnections(v, missing, surplus),
	)
	if len(v.probe.changes()) > 0 {
		errs = append(errs, n.writeProbe(v.probe.Probe, v.probe.right))
	}
	if len(v.classified.Dropped) > 0 {
		errs = append(errs, n.kernel.ForgetDrops()) // what goes on being dropped shows again
	}
	n.nameTables()
	errs = append(errs, n.forgetNode(v))
	return errors.Join(errs...)
}

// forgetNode takes away what the node has as long as there are attachments.
func (n *Node) forgetNode(v view) error {
	if len(v.attached)+v.unknown.Len() > 0 {
		return nil
	}
	defer n.store.Prune()
	return errors.Join(n.store.RemoveCluster(), n.resetSrcValidMark())
}

// recordAnew records attachments on the links of today, and repairs the record itself.
func (n *Node) recordAnew(v view) error {
	for i, a := range v.attached {
		before := v.recorded[i]
		if slices.Equal(a.Flows, before.Flows) {
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
	}
	return nil
}

// repairRoutes makes the tables that are to stand what they are to be.
func (n *Node) repairRoutes(v view) error {
	var errs []error
	for _, t := range v.tables {
		of := func(routes []egress.Route) []egress.Route {
			return slices.DeleteFunc(slices.Clone(routes), func(r egress.Route) bool { return !t.has(r) })
		}
		errs = append(errs, n.kernel.SetRoutes(of(v.want.Routes), of(v.have.Routes)))
	}
	return errors.Join(errs...)
}

func (t linkTable) has(r egress.Route) bool {
	return t.Table.Table == r.Table && t.Family == r.Family()
}

func (n *Node) repairAddresses(missing []egress.Address) error {
	var errs []error
	for _, a := range missing {
		added, err := n.kernel.AddAddress(a)
		errs = append(errs, err)
		if !added {
			continue
		}
		n.announce(a)
	}
	return errors.Join(errs...)
}

// announce tells the link's neighbours where an address is now. A firewall may drop
// it, even our own chain that is still to be repaired: then they find out later.
func (n *Node) announce(a egress.Address) {
	if err := n.kernel.Announce(a); err != nil {
		slog.Warn("neighbours may look for an address elsewhere for a while", "error", err)
	}
}

func (n *Node) repairClassification(v view, missing, surplus egress.State) error {
	if v.classified.Former {
		return n.kernel.Rebuild(v.want.Chains, v.want.Elements)
	}
	if len(missing.Chains)+len(missing.Elements)+len(surplus.Chains)+len(surplus.Elements) == 0 {
		return nil
	}
	if len(v.attached)+v.unknown.Len() == 0 {
		return n.kernel.DeleteClassification()
	}
	all := slices.Concat(v.want.Elements, v.spared.Elements)
	cluster := slices.DeleteFunc(all, func(e egress.Element) bool { return !e.Net.IsValid() })
	return n.kernel.Reclassify(missing, surplus, slices.Concat(v.want.Chains, v.spared.Chains), cluster)
}

// removeSurplus deletes rules before the tables into which they look.
func (n *Node) removeSurplus(v view, surplus egress.State) error {
	var errs []error
	for _, r := range surplus.Rules {
		errs = append(errs, n.kernel.DeleteRule(r))
	}
	for _, a := range surplus.Addresses {
		errs = append(errs, n.kernel.DeleteAddress(a))
	}
	// Tables that stay have been dealt with.
	errs = append(errs, n.kernel.SetRoutes(nil, slices.DeleteFunc(slices.Clone(surplus.Routes), func(r egress.Route) bool {
		return slices.ContainsFunc(v.tables, func(t linkTable) bool { return t.has(r) })
	})))
	if err := errors.Join(errs...); err != nil {
		return err
	}
	for _, t := range v.before {
		if v.isOver(t) {
			errs = append(errs, n.store.RemoveTable(t.Table, t.Family))
		}
	}
	return errors.Join(errs...)
}
