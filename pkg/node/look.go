package node

import (
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"github.com/egress-ip/egress-ip/pkg/config"
	"github.com/egress-ip/egress-ip/pkg/egress"
	"github.com/egress-ip/egress-ip/pkg/kernel"
	"github.com/egress-ip/egress-ip/pkg/record"
)

// look reads the node. It changes nothing. The attachments of those who are ending count
// as none. The error is a [ReadError].
func (n *Node) look(ending ...egress.Owner) (view, error) {
	v, begun := view{whole: true, ending: ending, name: n.linkName}, time.Now()
	for _, step := range []func(*view) error{
		n.lookAtRecord, n.lookAtTables, n.lookAtClassification, n.lookAtRules, n.lookAtRoutes, n.lookAtAddresses, n.lookForUnmarked,
	} {
		if err := step(&v); err != nil {
			return view{}, &ReadError{err}
		}
	}
	if err := n.lookAtRecordedProbe(&v); err != nil {
		v.miss(err)
		v.probe = probeView{right: true, recorded: true}
	}
	v.Missing, v.Surplus = v.Want.Less(v.Have)
	// What an attachment may need that cannot be read is not surplus.
	spared, _ := v.Surplus.Less(v.unneeded())
	v.Want = v.Want.And(spared)
	v.Surplus, _ = v.Surplus.Less(spared)
	v.Remove = len(v.attached)+v.unknown.Len() == 0
	slog.Debug("read the node", "record", n.store.Dir(), "attachments", len(v.attached), "links", len(v.links),
		"unread", errors.Join(v.unread...), "took", time.Since(begun))
	return v, nil
}

func (n *Node) lookAtRecord(v *view) (err error) {
	if v.recorded, v.unknown, err = n.store.List(); err != nil {
		return err
	}
	v.recorded = slices.DeleteFunc(v.recorded, func(a egress.Attachment) bool {
		if a.Ending {
			v.unfinished = append(v.unfinished, a)
		}
		return a.Ending || slices.Contains(v.ending, a.Owner)
	})
	v.unknown = v.unknown.Without(v.ending)
	for _, e := range v.unknown.Unread {
		v.miss(e)
	}
	v.before, err = n.store.Tables()
	v.miss(err)
	v.noRoutes = err != nil
	v.faults, err = n.store.Damaged()
	v.miss(err)
	left, err := n.store.Leftovers()
	v.miss(err)
	for _, path := range left {
		v.faults[path] = nil
	}
	var names []string
	var indexes []int
	for _, f := range egress.Flows(v.recorded...) {
		if !slices.Contains(indexes, f.Index) || !slices.Contains(names, f.Link) {
			indexes, names = append(indexes, f.Index), append(names, f.Link)
		}
	}
	if v.links, err = n.kernel.Links(names, indexes); err != nil {
		return err
	}
	if v.addresses, err = n.kernel.Addresses(); err != nil {
		return err
	}
	now := egress.Node{Links: v.links, Addresses: v.addresses}
	if now.VRFs, err = n.vrfRules(v.links); err != nil {
		return err
	}
	v.attached = egress.Relocate(v.recorded, now)
	v.without = egress.Follow(v.attached, now)
	v.owners = egress.Owners(v.attached)
	return nil
}

// link returns a flow's link, and whether it exists and can send.
func (v *view) link(name string) (egress.Link, bool) {
	l, _ := egress.Node{Links: v.links}.LinkNamed(name)
	return l, l.Carries()
}

// lookAtTables finds what each link's table is to be, as the last ADD configured it, even if the
// link has another ifindex by now, from what main has now. Of a link that cannot send nothing leads
// out: its pods' packets are refused.
func (n *Node) lookAtTables(v *view) (err error) {
	if v.noRoutes {
		return nil
	}
	all := map[egress.Family][]egress.Route{} // of main, read when the first table asks
	seen := map[egress.TableKey]bool{}
	for a, f := range egress.OwnFlows(v.attached) {
		if seen[f.TableKey()] {
			continue
		}
		seen[f.TableKey()] = true
		t := a.Table(f)
		for _, before := range v.before {
			if before.Family == f.Family() && (before.Table == f.Table || before.Link == f.Link && t.Thrown == nil) {
				t.Gateway, t.Cluster, t.Thrown = before.Gateway, before.Cluster, before.Thrown
			}
		}
		l, up := v.link(f.Link)
		if t.Down = !up; up {
			if t.Main, err = n.kernel.LinkRoutes(f.Family(), l.Table, l.Index); err != nil {
				return err
			}
		}
		if t.Thrown, err = n.thrown(t, all); err != nil {
			return err
		}
		v.Tables = append(v.Tables, t)
	}
	// One that cannot be read may need any.
	for _, t := range v.before {
		if !seen[t.Key()] && v.unknown.Len() == 0 {
			v.over = append(v.over, t)
		}
	}
	return nil
}

// lookAtClassification finds out which networks the last ADD has configured, with that what should
// exist, and what the table inet egress_ip has.
func (n *Node) lookAtClassification(v *view) error {
	cluster, ok, err := n.store.Cluster()
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
	v.Want = egress.Desired(v.attached, egress.Facts{
		Tables: v.Tables, Cluster: v.cluster, Addresses: slices.DeleteFunc(slices.Clone(v.addresses), v.goes), Without: v.without,
	})
	if v.noRoutes {
		v.Want.Routes = nil
	}
	if err == nil {
		err = n.readClassification(v)
	}
	v.Have.Chains, v.Have.Elements = v.classified.Chains, v.classified.Elements
	if err != nil {
		v.miss(err)
		v.Want.Chains, v.Want.Elements, v.Have.Chains, v.Have.Elements = nil, nil, nil, nil
	}
	return nil
}

// goes reports whether an address of a link is one that goes with a DEL which has not finished.
func (v *view) goes(a egress.LinkAddress) bool {
	for _, f := range egress.Flows(v.unfinished...) {
		if f.OwnsAddress && f.HostAddress() == a.At() {
			return true
		}
	}
	return false
}

func (n *Node) readClassification(v *view) (err error) {
	v.classified, err = n.kernel.Classification(v.Want.Chains)
	if err != nil || len(v.Want.Chains)+v.unknown.Len() > 0 || len(v.classified.Chains)+len(v.classified.Elements) == 0 {
		return err
	}
	// Nothing of ours is to be there; what is may be another's who uses the name.
	foreign, err := n.kernel.ClassificationIsForeign()
	if foreign {
		v.classified.Chains, v.classified.Elements = nil, nil
	}
	return err
}

// lookAtRules reads the rules that are ours by their priority, or by what only
// egress-ip's look like.
func (n *Node) lookAtRules(v *view) error {
	priorities := []uint32{config.DefaultRulePriority}
	for _, a := range v.attached {
		if !slices.Contains(priorities, a.RulePriority) {
			priorities = append(priorities, a.RulePriority)
		}
	}
	for _, family := range egress.Families {
		ours, err := n.kernel.Rules(family)
		if err != nil {
			return err
		}
		v.Have.Rules = append(v.Have.Rules, egress.Ours(ours, append(egress.SourcePriorities(ours), priorities...))...)
	}
	return nil
}

// lookAtRoutes reads every table that is ours by record, by a rule of ours, or
// by its closing route.
func (n *Node) lookAtRoutes(v *view) error {
	if v.noRoutes {
		return nil
	}
	links := map[egress.TableKey]int{} // 0: not known
	for _, r := range v.Have.Rules {
		if r.Table > egress.LocalTable {
			links[egress.TableKey{Table: r.Table, Family: r.Family}] = 0
		}
	}
	for _, family := range egress.Families {
		closed, err := n.kernel.OurRoutes(family, egress.Unreachable)
		if err != nil {
			return err
		}
		for _, r := range closed {
			if r.IsClosing() {
				links[r.TableKey()] = 0
			}
		}
	}
	for _, t := range slices.Concat(v.before, v.Tables) {
		links[t.Key()] = t.Index
	}
	wanted := map[egress.TableKey]map[egress.RouteKey]bool{}
	for _, r := range v.Want.Routes {
		if wanted[r.TableKey()] == nil {
			wanted[r.TableKey()] = map[egress.RouteKey]bool{}
		}
		wanted[r.TableKey()][r.Key()] = true
	}
	for k, link := range links {
		ours, others, err := n.kernel.TableRoutes(k.Family, k.Table, link, wanted[k])
		if err != nil {
			return err
		}
		v.Have.Routes = append(v.Have.Routes, ours...)
		if wanted[k] != nil {
			v.astray = append(v.astray, egress.Table{Index: link}.Astray(others)...)
		}
	}
	return nil
}

// lookAtAddresses finds out which egress addresses are to exist, and which do.
// While a link is down it has no IPv6 addresses, and it gets no IPv4 ones: they could not
// be announced.
func (n *Node) lookAtAddresses(v *view) error {
	exist := addressesOf(v.addresses)
	ours := map[egress.Address]bool{}
	for _, f := range egress.Flows(slices.Concat(v.recorded, v.unfinished)...) { // also where they were before
		ours[f.HostAddress()] = ours[f.HostAddress()] || f.OwnsAddress
	}
	for _, a := range v.Want.Addresses {
		ours[a] = true
	}
	cannot := map[egress.Address]bool{}
	for _, f := range egress.OwnFlows(v.attached) {
		l, up := v.link(f.Link)
		at := f.HostAddress()
		exists := slices.Contains(exist, at)
		if l.Index != f.Index || !up && !exists {
			cannot[at] = true
		} else if !ours[at] && !exists && !slices.Contains(v.absent, at) {
			v.absent = append(v.absent, at)
		}
	}
	v.Want.Addresses = slices.DeleteFunc(v.Want.Addresses, func(a egress.Address) bool { return cannot[a] })
	v.Have.Addresses = slices.DeleteFunc(exist, func(a egress.Address) bool { return !ours[a] })
	return nil
}

func addressesOf(all []egress.LinkAddress) []egress.Address {
	addresses := make([]egress.Address, 0, len(all))
	for _, on := range all {
		addresses = append(addresses, on.At())
	}
	return addresses
}

// lookForUnmarked finds the uplinks of attachments on which the reverse path filter does
// not see marks; [egress.Uplinks] says why it has to. As soon as there is a rule of
// anybody's, the kernel looks the way back of each IPv4 packet up, filter or not
// (fib_validate_source in net/ipv4/fib_frontend.c). IPv6 has no such look-up.
func (n *Node) lookForUnmarked(v *view) (err error) {
	v.UnmarkAll, err = n.store.HasSrcValidMark()
	v.miss(err)
	if _, err := n.store.MarkedLinks(); err != nil { // what is to be added to them
		v.miss(err)
		return nil
	}
	if len(egress.Uplinks(v.attached, nil, nil)) == 0 {
		return nil // no flow of IPv4
	}
	byDefault, err := n.kernel.DefaultLinks(outside[egress.IPv4])
	if err != nil {
		return err
	}
	links, err := n.kernel.Links(nil, egress.Uplinks(v.attached, v.addresses, byDefault))
	if err != nil {
		return err
	}
	for _, l := range links {
		marked, err := kernel.SrcValidMark(l.Name)
		if err != nil {
			return err
		}
		if !marked {
			v.unmarked = append(v.unmarked, record.MarkedLink{Index: l.Index, Name: l.Name})
		}
	}
	return nil
}

// unneeded returns of the surplus what no attachment can need, not even one of which only the
// owner is known: that may need the elements that name its container, and whatever has no owner that
// is known. So its pod keeps its egress, or is refused, but does not leave by the primary link.
func (v *view) unneeded() (unneeded egress.State) {
	if v.unknown.Len() == 0 {
		return v.Surplus
	}
	owners := map[string]bool{}
	for _, o := range v.unknown.Owners() {
		owners[o.Comment()] = true
	}
	known := map[netip.Addr]bool{}
	for pod := range v.owners {
		known[pod] = true
	}
	for _, e := range v.Surplus.Elements {
		if e.Pod.IsValid() && (known[e.Pod] || !owners[e.Owner]) {
			unneeded.Elements = append(unneeded.Elements, e)
		}
	}
	for _, e := range unneeded.Elements {
		known[e.Pod] = true
	}
	for _, r := range v.Surplus.Rules {
		if known[r.OwnPod()] {
			unneeded.Rules = append(unneeded.Rules, r)
		}
	}
	for _, r := range v.Surplus.Routes {
		if known[r.OwnPod()] || !r.IsPodThrow() && v.isWanted(r) {
			unneeded.Routes = append(unneeded.Routes, r)
		}
	}
	unneeded.Addresses = v.Surplus.Addresses // those of attachments that can be read
	return unneeded
}

// isWanted reports whether a route is in a table that is to exist.
func (v *view) isWanted(r egress.Route) bool {
	return slices.ContainsFunc(v.Tables, func(t egress.Table) bool { return t.Has(r) })
}
