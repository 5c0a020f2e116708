package node

import (
	"errors"
	"fmt"
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
	return v.changes(), errors.Join(append(v.unread, n.hold(v), n.converge(n.again(&v)))...)
}

// again returns the look that has been taken, and then new ones.
func (n *Node) again(v *view) func() (view, error) {
	return func() (view, error) {
		if v == nil {
			return n.look()
		}
		taken := *v
		v = nil
		return taken, nil
	}
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
	for _, t := range v.over {
		changes = append(changes, "forgot the "+t.Family.String()+" table of "+t.Link)
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

// isOver reports whether no attachment needs a table that is recorded. One that cannot be
// read may need any.
func (v *view) isOver(t egress.Table) bool {
	return v.unknown.Len() == 0 && !slices.ContainsFunc(v.tables, func(w egress.LinkTable) bool { return w.IsSame(t) })
}
