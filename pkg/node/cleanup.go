package node

import (
	"errors"
	"fmt"

	"github.com/egress-ip/egress-ip/pkg/egress"
)

// AttachedError says that pods are recorded, which a clean-up would leave without
// their egress.
type AttachedError struct{ Pods int }

func (e *AttachedError) Error() string {
	pods := "pods are"
	if e.Pods == 1 {
		pods = "pod is"
	}
	return fmt.Sprintf("%d annotated %s recorded, and would leave by the main table from now on, until made anew; delete them first, or say --force", e.Pods, pods)
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
	v.have = v.have.And(v.spared)
	lines := prefixed("removed ", v.have.Lines(v.linkName))
	if v.probe.have.Stands() && !v.probe.foreign {
		lines = append(lines, "removed table ip6 egress_ip_probe")
	}
	marked, err := n.markedLinks()
	if err != nil {
		return nil, err
	}
	for _, l := range marked {
		lines = append(lines, fmt.Sprintf("set net.ipv4.conf.%s.src_valid_mark back to 0", l.Name))
	}
	if v.forAllLinks {
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
	return lines, n.removeAll(v)
}

// removeAll ends every attachment, and what is recorded nowhere.
func (n *Node) removeAll(v view) error {
	v.ended = podsOf(v.attached)
	probe := v.probe
	v.keepDeletions()
	v.want, v.spared, v.surplus, v.last = egress.State{}, egress.State{}, v.have, true
	errs := append(v.unread, n.apply(&v))
	if probe.have.Stands() && !probe.foreign {
		errs = append(errs, n.kernel.SetProbe(egress.Probe{}))
	}
	if err := errors.Join(errs...); err != nil {
		return err // the record stays, for the next try
	}
	if err := n.store.Destroy(); err != nil {
		return err
	}
	n.nameTables()
	return nil
}
