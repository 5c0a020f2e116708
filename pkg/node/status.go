package node

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/egress-ip/egress-ip/pkg/egress"
	"github.com/egress-ip/egress-ip/pkg/kernel"
	"github.com/egress-ip/egress-ip/pkg/status"
)

// Status says what stands on the node against what is recorded. It changes nothing.
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
			if v.inTheWay, err = n.inTheWayOf(&v); err != nil {
				v.unread = append(v.unread, err)
			}
			return v.status(), nil
		}
		time.Sleep(pause)
	}
}

// inTheWayOf names what of somebody else's leads packets elsewhere: in links' tables, and, where
// nothing of ours is missing, before our rules, which the kernel says for one pod of each table.
func (n *Node) inTheWayOf(v *view) ([]string, error) {
	lines := n.inTheWay(v.astray)
	if !v.right() || len(lines) > 0 {
		return lines, nil
	}
	seen := map[key]bool{}
	for _, a := range v.attached {
		for _, f := range v.mine(a) {
			if seen[key{f.Table, f.Family()}] {
				continue
			}
			seen[key{f.Table, f.Family()}] = true
			a.Flows = []egress.Flow{f}
			found, err := n.obstacles(a, *v)
			if err != nil {
				return lines, err
			}
			lines = append(lines, found.lines()...)
		}
	}
	return lines, nil
}

func (v *view) status() status.Status {
	var s status.Status
	missing := v.attribute()
	for _, link := range v.recordedLinks() {
		s.Links = append(s.Links, v.linkStatus(link, missing))
	}
	for i, a := range v.attached {
		for j, f := range a.Flows {
			s.Pods = append(s.Pods, v.podStatus(a, f, v.recorded[i].Flows[j], missing))
		}
	}
	s.Missing, s.Unrecorded = missing.node, v.surplus.Lines(v.linkName)
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
	if v.forAllLinks {
		s.Unrecorded = append(s.Unrecorded, "net.ipv4.conf.all.src_valid_mark=1")
	}
	for _, err := range v.unread {
		s.Unread = append(s.Unread, err.Error())
	}
	s.InTheWay = v.inTheWay
	s.Dropped, s.Forged = v.drops(v.classified.Dropped), v.drops(v.classified.Forged)
	s.Probe = v.probe.status()
	if s.Probe == nil && v.probe.have.Stands() {
		s.Unrecorded = append(s.Unrecorded, "table ip6 egress_ip_probe")
	}
	return status.New(s)
}

func (v *view) drops(all []kernel.Drop) []status.Drop {
	var drops []status.Drop
	for _, d := range all {
		drops = append(drops, status.Drop{Address: d.Pod, Link: v.linkName(d.Link), Counter: statusCounter(d.Counter), Seconds: int(d.Last.Seconds())})
	}
	return drops
}

// missingOf is what is missing, by whose it is.
type missingOf struct {
	pods  map[netip.Addr][]string
	links map[uint32][]string // by table
	node  []string
}

// attribute finds out whose each missing thing is.
func (v *view) attribute() missingOf {
	m := missingOf{pods: map[netip.Addr][]string{}, links: map[uint32][]string{}}
	missing := v.missing
	missing.Addresses = slices.Concat(missing.Addresses, v.absent)
	for _, item := range missing.Items(v.attached) {
		line := item.Describe(v.linkName)
		switch {
		case len(item.Pods) > 0:
			for _, pod := range item.Pods {
				m.pods[pod] = append(m.pods[pod], line)
			}
		case item.Table != 0:
			m.links[item.Table] = append(m.links[item.Table], line)
		default:
			m.node = append(m.node, line)
		}
	}
	return m
}

// recordedLinks returns the names of the links that pods are recorded on.
func (v *view) recordedLinks() []string {
	var names []string
	for _, a := range v.attached {
		for _, f := range a.Flows {
			if !slices.Contains(names, f.Link) {
				names = append(names, f.Link)
			}
		}
	}
	return names
}

func (v *view) linkStatus(name string, missing missingOf) status.Link {
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
				s.Missing = append(s.Missing, fmt.Sprintf("its ifindex is %d, and %d is recorded: it was created anew", f.Index, was))
			}
		}
		if on {
			s.Pods++
		}
	}
	for _, table := range tables {
		s.Missing = append(s.Missing, missing.links[table]...)
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
	for _, r := range v.have.Routes {
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

func (v *view) podStatus(a egress.Attachment, f, recorded egress.Flow, missing missingOf) status.Pod {
	s := status.Pod{
		Namespace: a.PodNamespace, Name: a.PodName, ContainerID: a.ContainerID, Interface: a.IfName,
		Address: f.Pod, EgressAddress: f.Address, Link: f.Link, Since: a.Since,
		Origin: cmp.Or(a.Origin, status.OriginAnnotation),
	}
	if v.owners[f.Pod] != a.Owner {
		s.Missing = []string{"its address, which another pod has by now"}
		return s
	}
	s.Missing = missing.pods[f.Pod]
	if c, ok := v.classified.Sent[f.Pod]; ok {
		sent := statusCounter(c)
		s.Sent = &sent
	}
	return s
}

func (p probeView) status() *status.Probe {
	if !p.Stands() {
		return nil
	}
	s := &status.Probe{
		Links: p.Links, Source: p.Source, Translated: p.Translated,
		In: statusCounter(p.have.In), Out: statusCounter(p.have.Out),
	}
	switch {
	case p.foreign:
		s.Missing = []string{"table ip6 egress_ip_probe: somebody else uses that name, so it is left alone; rename theirs"}
	case !p.right:
		s.Missing = []string{"table ip6 egress_ip_probe as it should be"}
	}
	return s
}

func statusCounter(c kernel.Counter) status.Counter {
	return status.Counter{Packets: c.Packets, Bytes: c.Bytes}
}

// linkName names the link with an ifindex, see [egress.LinkName].
func (v *view) linkName(index int) string {
	if i := slices.IndexFunc(v.links, func(l egress.Link) bool { return l.Index == index }); i >= 0 {
		return v.links[i].Name
	}
	if name, ok := v.names[index]; ok {
		return name
	}
	return egress.Unnamed(index)
}
