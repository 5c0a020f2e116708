package node

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/egress-ip/egress-ip/pkg/egress"
	"github.com/egress-ip/egress-ip/pkg/kernel"
	"github.com/egress-ip/egress-ip/pkg/status"
)

// Status says what the node has against what is recorded. It changes nothing.
func (n *Node) Status() (status.Status, error) {
	// A call that is under way looks like something missing. So look again, but without the
	// lock: status answers also while a call hangs.
	const looks, pause = 5, 100 * time.Millisecond
	for i := 1; ; i++ {
		v, err := n.look()
		if err != nil {
			return status.Status{}, err
		}
		if v.right() || i == looks {
			inTheWay, err := n.inTheWayOf(&v)
			v.miss(err)
			return v.status(inTheWay), nil
		}
		time.Sleep(pause)
	}
}

// inTheWayOf names what of somebody else's leads packets elsewhere: in links' tables, and, where
// nothing of ours is missing, before our rules, which the kernel says for one pod of each table.
func (n *Node) inTheWayOf(v *view) (lines []string, err error) {
	if lines = n.inTheWay(v.astray); !v.right() || len(lines) > 0 {
		return lines, nil
	}
	seen := map[egress.TableKey]bool{}
	for a, f := range egress.OwnFlows(v.attached) {
		if seen[f.TableKey()] {
			continue
		}
		seen[f.TableKey()] = true
		a.Flows = []egress.Flow{f}
		found, err := n.obstacles(a, *v)
		if err != nil {
			return lines, err
		}
		lines = append(lines, found...)
	}
	return lines, nil
}

func (v *view) status(inTheWay []string) status.Status {
	var s status.Status
	missing := v.attribute()
	var links []string // that pods are recorded on
	for _, f := range egress.Flows(v.attached...) {
		if !slices.Contains(links, f.Link) {
			links = append(links, f.Link)
		}
	}
	for _, link := range links {
		s.Links = append(s.Links, v.linkStatus(link, missing))
	}
	for a, f := range egress.Flows(v.attached...) {
		s.Pods = append(s.Pods, v.podStatus(a, f, missing))
	}
	s.Missing, s.Unrecorded = missing[uint32(0)], v.Surplus.Lines(v.name)
	for _, a := range v.unfinished {
		s.Unrecorded = append(s.Unrecorded, "the record of container "+a.ContainerID+", whose DEL was killed or has failed")
	}
	for _, d := range v.unknown.Damaged {
		s.Unread = append(s.Unread, d.Error())
	}
	for _, path := range slices.Sorted(maps.Keys(v.faults)) {
		if err := v.faults[path]; err != nil {
			s.Unread = append(s.Unread, fmt.Sprintf("record %s is damaged: %s; `egress-ip resync` writes it again", path, err))
		} else {
			s.Unrecorded = append(s.Unrecorded, "record "+path+", which "+faultOf(nil))
		}
	}
	for _, l := range v.unmarked {
		s.Missing = append(s.Missing, fmt.Sprintf("net.ipv4.conf.%s.src_valid_mark=1", l.Name))
	}
	if v.UnmarkAll {
		s.Unrecorded = append(s.Unrecorded, "net.ipv4.conf.all.src_valid_mark=1")
	}
	for _, err := range v.unread {
		s.Unread = append(s.Unread, err.Error())
	}
	s.InTheWay = inTheWay
	s.Dropped, s.Forged = v.drops(v.classified.Dropped), v.drops(v.classified.Forged)
	s.Probe = v.probe.status()
	if s.Probe == nil && v.probe.have.Exists() {
		s.Unrecorded = append(s.Unrecorded, "table ip6 egress_ip_probe")
	}
	return status.New(s)
}

func (v *view) drops(all []kernel.Drop) []status.Drop {
	var drops []status.Drop
	for _, d := range all {
		drops = append(drops, status.Drop{Address: d.Pod, Link: v.name(d.Link), Counter: status.Counter(d.Counter), Seconds: int(d.Last.Seconds())})
	}
	return drops
}

// attribute says whose each missing thing is: a pod's, by its address, a link's, by its table, or,
// by table 0, the node's.
func (v *view) attribute() map[any][]string {
	missing := map[any][]string{}
	of := v.Missing
	of.Addresses = slices.Concat(of.Addresses, v.absent)
	for _, item := range of.Items(v.attached) {
		for _, pod := range item.Pods {
			missing[pod] = append(missing[pod], item.Describe(v.name))
		}
		if len(item.Pods) == 0 {
			missing[item.Table] = append(missing[item.Table], item.Describe(v.name))
		}
	}
	return missing
}

func (v *view) linkStatus(name string, missing map[any][]string) status.Link {
	l, _ := v.link(name)
	s := status.Link{Name: name, Index: l.Index, State: status.LinkUp}
	switch {
	case l.Index == 0:
		s.State = status.LinkAbsent
	case !l.Up:
		s.State = status.LinkDown
	case !l.Carrier:
		s.State = status.LinkNoCarrier
	case l.Unfit != "":
		s.State = status.LinkUnfit
	}
	var tables []uint32
	for i, a := range v.attached {
		on := false
		for j, f := range a.Flows {
			if f.Link != name {
				continue
			}
			on = true
			s.Table = f.Table
			if !slices.Contains(tables, f.Table) {
				tables = append(tables, f.Table)
			}
			if was := v.recorded[i].Flows[j].Index; was != f.Index && len(s.Missing) == 0 {
				s.Missing = append(s.Missing, fmt.Sprintf("its ifindex is %d, and %d is recorded: it was created again", f.Index, was))
			}
		}
		if on {
			s.Pods++
		}
	}
	for _, table := range tables {
		s.Missing = append(s.Missing, missing[table]...)
		for _, family := range egress.Families {
			if r, ok := v.defaultRoute(table, family); ok {
				s.Defaults = append(s.Defaults, r)
			}
		}
	}
	return s
}

// defaultRoute returns the default that counts in a link's table, as `ip route` has it.
func (v *view) defaultRoute(table uint32, family egress.Family) (string, bool) {
	var best egress.Route
	for _, r := range v.Have.Routes {
		if r.Table == table && r.Family() == family && r.Dst.Bits() == 0 && r.Type == egress.Unicast &&
			(!best.Dst.IsValid() || r.Metric < best.Metric) {
			best = r
		}
	}
	if best.NextHop.IsValid() {
		return "default via " + best.NextHop.String(), true
	}
	return "default", best.Dst.IsValid()
}

func (v *view) podStatus(a egress.Attachment, f egress.Flow, missing map[any][]string) status.Pod {
	s := status.Pod{
		Namespace: a.PodNamespace, Name: a.PodName, ContainerID: a.ContainerID, Interface: a.IfName,
		Address: f.Pod, EgressAddress: f.Address, Link: f.Link, Since: a.Since,
		Origin: cmp.Or(a.Origin, status.OriginAnnotation),
	}
	if v.owners[f.Pod] != a.Owner {
		s.Missing = []string{"its address, which another pod has by now"}
		return s
	}
	s.Missing = missing[f.Pod]
	if c, ok := v.classified.Sent[f.Pod]; ok {
		sent := status.Counter(c)
		s.Sent = &sent
	}
	return s
}

func (p probeView) status() *status.Probe {
	if !p.Exists() {
		return nil
	}
	s := &status.Probe{
		Links: p.Links, Source: p.Source, Translated: p.Translated,
		In: status.Counter(p.have.In), Out: status.Counter(p.have.Out),
	}
	switch {
	case p.foreign:
		s.Missing = []string{"table ip6 egress_ip_probe: somebody else uses that name, so it is left alone; rename theirs"}
	case !p.right:
		s.Missing = []string{"table ip6 egress_ip_probe as it should be"}
	}
	return s
}
