package node

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/egress-ip/egress-ip/pkg/egress"
	"github.com/egress-ip/egress-ip/pkg/kernel"
	"github.com/egress-ip/egress-ip/pkg/names"
)

// Resync makes the kernel what the records say, and takes away what is
// egress-ip's and recorded nowhere. It returns a line for each change, and makes
// none, nor asks for the lock, where all is right. It goes on after an error, and
// returns all; what could not be read is left as it is, and among them.
func (n *Node) Resync() ([]string, error) {
	v, err := n.look()
	if err == nil && !v.right() {
		// A call that is under way looks like something to repair; so look again.
		if err := n.lock(); err != nil {
			return nil, err
		}
		defer n.release()
		v, err = n.look()
	}
	if err != nil {
		return nil, err
	}
	changes, errs := v.changes(), append(v.unread, n.hold(v))
	if len(changes) > 0 {
		err = n.apply(&v)
		if errors.Is(err, kernel.ErrChanged) {
			err = n.converge(func() (view, error) { return n.look() })
		}
	}
	return changes, errors.Join(append(errs, err)...)
}

// hold tells the guard, if there is one, what is wanted.
func (n *Node) hold(v view) error {
	if n.held == nil {
		return nil
	}
	return n.held.Keep(v.Want.Held(v.addresses))
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
	for _, a := range v.unfinished {
		changes = append(changes, "finished the DEL of "+a.ContainerID+", which was killed or has failed")
	}
	changes = append(changes, prefixed("added ", v.Missing.Lines(v.name))...)
	changes = append(changes, prefixed("removed ", v.Surplus.Lines(v.name))...)
	for _, t := range v.Tables {
		if !v.isRecorded(t) {
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
	if v.UnmarkAll {
		changes = append(changes, "set net.ipv4.conf.all.src_valid_mark back to 0")
	}
	if !v.noRoutes && names.Stale(tableNames(v.Tables)) {
		changes = append(changes, "named the routing tables for iproute2")
	}
	return append(changes, v.probe.changes()...)
}

func (p probeView) changes() []string {
	switch {
	case p.foreign || p.right && p.recorded:
		return nil
	case !p.right && !p.Exists():
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

// AttachedError says that pods are recorded, which a clean-up would leave without
// their egress.
type AttachedError struct{ Pods int }

func (e *AttachedError) Error() string {
	pods := "pods are"
	if e.Pods == 1 {
		pods = "pod is"
	}
	return fmt.Sprintf("%d annotated %s recorded, and would leave by the main table from now on, until they are created again; delete them first, or say --force", e.Pods, pods)
}

// Cleanup takes everything of egress-ip's off the node, the probe table and the
// record included. It returns a line for each thing. While pods are recorded it
// does so only if forced, and returns an [AttachedError] otherwise.
func (n *Node) Cleanup(force bool) ([]string, error) {
	if err := n.lock(); err != nil {
		return nil, err
	}
	defer n.release()
	v, err := n.look()
	if err != nil {
		return nil, err
	}
	if pods := len(v.attached) + v.unknown.Len(); pods > 0 && !force {
		return nil, &AttachedError{pods}
	}
	lines := prefixed("removed ", v.Have.Lines(v.name))
	probe := v.probe
	if probe.have.Exists() && !probe.foreign {
		lines = append(lines, "removed table ip6 egress_ip_probe")
	}
	marked, err := n.markedLinks()
	if err != nil {
		return nil, err
	}
	for _, l := range marked {
		lines = append(lines, fmt.Sprintf("set net.ipv4.conf.%s.src_valid_mark back to 0", l.Name))
	}
	if v.UnmarkAll {
		lines = append(lines, "set net.ipv4.conf.all.src_valid_mark back to 0")
	}
	exists, err := n.store.Exists()
	if err != nil {
		return nil, err
	}
	if exists {
		lines = append(lines, "removed the record "+n.store.Dir())
	}
	n.read = nil
	v.Ended = egress.Pods(v.attached...)
	v.keepDeletions()
	v.Want, v.Surplus, v.Remove = egress.State{}, v.Have, true
	errs := append(v.unread, n.apply(&v))
	if probe.have.Exists() && !probe.foreign {
		errs = append(errs, n.kernel.SetProbe(egress.Probe{}))
	}
	if err := errors.Join(errs...); err != nil {
		return lines, err // the record stays, for the next try
	}
	if err := n.store.Destroy(); err != nil {
		return lines, err
	}
	n.nameTables()
	return lines, nil
}
