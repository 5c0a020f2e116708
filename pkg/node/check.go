package node

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/egress-ip/egress-ip/pkg/config"
	"github.com/egress-ip/egress-ip/pkg/egress"
)

// MissingError is what CHECK reports: recorded, but not in the kernel.
type MissingError struct{ Missing []string }

func (e *MissingError) Error() string {
	return "missing on the node: " + strings.Join(e.Missing, "; ") + "; delete the pod, so that its ADD is made again"
}

// Check is CHECK of an annotated pod: what the record says, less what the kernel has.
func (n *Node) Check(r config.Request) error {
	if err := n.lock(); err != nil {
		return err
	}
	a, ok, err := n.store.Find(egress.Owner{ContainerID: r.ContainerID, IfName: r.IfName})
	if err == nil && !ok {
		err = fmt.Errorf("container %s, interface %s: egress-ip has no record of this pod's egress; delete the pod, so that its ADD is made again", r.ContainerID, r.IfName)
	}
	if err != nil {
		return err
	}
	v, err := n.lookFor(a)
	if err != nil {
		return err
	}
	if missing := n.missing(v); len(missing) > 0 {
		return &MissingError{missing}
	}
	obstacles, err := n.obstacles(a, v)
	return conflict(strings.Join(obstacles, "; "), err)
}

// missing returns what is wanted and does not exist, and what of somebody else is in the
// way in links' tables, as text.
func (n *Node) missing(v view) []string {
	v.Missing.Addresses = slices.Concat(v.Missing.Addresses, v.absent)
	return append(v.Missing.Lines(n.linkName), n.inTheWay(v.astray)...)
}

// inTheWay names somebody else's routes.
func (n *Node) inTheWay(astray []egress.Route) []string {
	var lines []string
	for _, r := range astray {
		lines = append(lines, fmt.Sprintf("somebody else's %s route `%s` in table %d is in the way; remove it", r.Family(), r.Text(n.linkName(r.Link)), r.Table))
	}
	return lines
}

// verify asks the kernel, at the end of ADD, whether what was written is there, and
// whether packets go where they are to go. A write that finds something there already
// succeeds, and what is there may be somebody else's and not the same.
func (n *Node) verify(a egress.Attachment, v view) (err error) {
	if v.whole {
		v, err = n.lookFor(a)
	} else if v.addresses, err = n.kernel.Addresses(); err == nil {
		err = n.compare(&v)
	}
	if err != nil {
		return err
	}
	missing := n.missing(v)
	found, err := n.obstacles(a, v)
	if err != nil {
		return err
	}
	if len(missing) > 0 {
		found = append(found, "not as ADD has just written it: "+strings.Join(missing, "; ")+
			" (has something else its place, or does somebody remove it?)")
	}
	return conflict(strings.Join(found, "; "), nil)
}

// obstacles asks the kernel which way it routes each flow's packets, with the link's mark,
// and without any, where the source rule decides. Nothing is sent.
func (n *Node) obstacles(a egress.Attachment, v view) ([]string, error) {
	var found []string
	for _, f := range a.Flows {
		link, ok := egress.Node{Links: v.links}.Link(f.Index)
		if !ok || !link.Carries() {
			continue // its packets are refused
		}
		var thrown []netip.Prefix
		for _, t := range v.Tables {
			if t.Key() == f.TableKey() {
				thrown = t.Thrown
			}
		}
		in, known, err := n.kernel.LinkTo(f.Pod)
		if err != nil {
			return nil, err
		}
		if !known {
			in = link.Name // there is no way to the pod yet; any link shows the rules and the table
		}
		marks := []uint32{f.Mark, 0}
		if link.InVRF() {
			// Without its mark a strict reverse path filter drops the packet: it looks for
			// the way back in the VRF's table.
			marks = marks[:1]
		}
		for _, mark := range marks {
			w := egress.Way{Attachment: a, Flow: f, Link: link, Packet: egress.Packet{Source: f.Pod, In: in, Mark: mark}}
			o, err := n.obstacle(w, known, thrown)
			if err != nil {
				return nil, err
			}
			if o != "" && !slices.Contains(found, o) {
				found = append(found, o)
			}
		}
		if known && link.InVRF() {
			from, ok := egress.Outside(f.Family(), thrown)
			if !ok {
				continue
			}
			w := egress.Way{Attachment: a, Flow: f, Packet: egress.Packet{Source: from, To: f.Pod, In: link.Name, Mark: f.Mark}}
			if w.Answer, err = n.kernel.Lookup(w.Packet); err != nil {
				return nil, err
			}
			if w.Answer.Refusal != 0 || w.Answer.LinkName != in {
				found = append(found, w.AnswerObstacle())
			}
		}
	}
	return found, nil
}

// obstacle asks for one packet's way, and says what leads it elsewhere; known is false where it is
// not known by which link the pod's packets come.
func (n *Node) obstacle(w egress.Way, known bool, cluster []netip.Prefix) (_ string, err error) {
	f := w.Flow
	avoid := cluster
	for {
		to, ok := egress.Outside(f.Family(), avoid)
		if !ok {
			return "", nil // all is the cluster's
		}
		w.Packet.To = to
		if w.Answer, err = n.kernel.Lookup(w.Packet); err != nil || w.Leaves() {
			return "", err
		}
		if !known && (w.Answer.Refusal == egress.RefusedInvalid || w.Answer.Refusal == egress.RefusedReversePath) {
			return "", nil
		}
		if w.NodeRules != nil {
			break
		}
		// Rules of somebody else's for a few destinations are no concern.
		if w.NodeRules, err = n.kernel.AllRules(f.Family()); err != nil {
			return "", err
		}
		avoid = slices.Clone(cluster)
		for _, r := range w.NodeRules {
			if egress.IsSpecific(r.To) {
				avoid = append(avoid, r.To)
			}
		}
	}
	if w.Steps, err = n.steps(w.NodeRules, w.Packet); err != nil {
		return "", err
	}
	return w.Obstacle(), nil
}
