package node

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/egress-ip/egress-ip/pkg/egress"
)

// outside is an address of the world, where a person names no destination. Nothing is
// sent there.
var outside = map[egress.Family]netip.Addr{
	egress.IPv4: netip.MustParseAddr("8.8.8.8"),
	egress.IPv6: netip.MustParseAddr("2001:4860:4860::8888"),
}

// Explained is a way, what to think of it, and what else of the flow is missing.
type Explained struct {
	egress.Way
	egress.Verdict
	Missing []string // as CHECK says; only where the verdict is right
}

// Explain finds a pod ([egress.Named] says how) and looks up which way its packets
// go to a destination; without one, to the outside, in each family in which it has
// egress. Where it has none in the destination's family the way's Flow is zero. Ways
// that could be read come beside the error of one that could not.
//
// It changes nothing, and takes no lock, so that it answers also while a call hangs.
func Explain(pod string, to netip.Addr) ([]Explained, error) {
	n, err := Open()
	if err != nil {
		return nil, err
	}
	defer n.Close()
	all, unknown, err := n.store.List()
	if err != nil {
		return nil, err
	}
	attachments, err := egress.Named(all, pod)
	if err != nil {
		for _, d := range unknown.Damaged { // it may be the one that is meant
			err = errors.Join(err, d)
		}
		for _, e := range unknown.Unread {
			err = errors.Join(err, e)
		}
		return nil, err
	}
	var (
		ways   []Explained
		failed []error
	)
	for _, a := range attachments {
		for _, f := range a.Flows {
			dst := to
			if !to.IsValid() {
				dst = outside[f.Family()]
			}
			if egress.FamilyOf(dst) != f.Family() {
				continue
			}
			of, err := n.explainAll(a, f, dst)
			ways, failed = append(ways, of...), append(failed, err)
		}
	}
	if len(failed) > 0 {
		return ways, errors.Join(failed...)
	}
	return n.explainAll(attachments[0], egress.Flow{}, to)
}

// explainAll explains the way to a destination, or, where that is a Service of IPVS, to each
// of its backends.
func (n *Node) explainAll(a egress.Attachment, f egress.Flow, to netip.Addr) (ways []Explained, err error) {
	backends, err := n.kernel.Backends(to)
	if err != nil {
		return nil, err
	}
	const most = 8
	for i, backend := range backends[:min(len(backends), most)] {
		way, err := n.explain(a, f, egress.Service{Address: to, Backend: i + 1, Backends: len(backends)}, backend)
		if err != nil {
			return ways, err
		}
		ways = append(ways, way)
	}
	if len(backends) > 0 {
		return ways, nil
	}
	way, err := n.explain(a, f, egress.Service{}, to)
	if err != nil {
		return nil, err
	}
	return []Explained{way}, nil
}

func (n *Node) explain(a egress.Attachment, f egress.Flow, by egress.Service, to netip.Addr) (Explained, error) {
	way, err := n.way(a, f, by, to)
	if err != nil {
		return Explained{}, err
	}
	e := Explained{Way: way, Verdict: way.Verdict()}
	if e.Right {
		a.Flows = []egress.Flow{f}
		v, err := n.lookFor(a)
		if err != nil {
			return e, err
		}
		e.Missing = n.missing(v)
	}
	return e, nil
}

// way follows the packet: in, mark, rules and tables, the kernel's own answer to
// it all, and out.
func (n *Node) way(a egress.Attachment, f egress.Flow, by egress.Service, to netip.Addr) (egress.Way, error) {
	w := egress.Way{Attachment: a, Flow: f, Service: by, Packet: egress.Packet{Source: f.Pod, To: to, In: "lo"}}
	var err error
	if w.HasEgress() {
		if err := n.readFlow(&w); err != nil {
			return w, err
		}
	}
	if w.Marking, err = n.kernel.Marking(f.Pod, to, by.Backend > 0); err != nil {
		return w, err
	}
	w.Packet.Mark = w.Marking.Mark
	if w.NodeRules, err = n.kernel.AllRules(egress.FamilyOf(to)); err != nil {
		return w, err
	}
	if w.Steps, err = n.steps(w.NodeRules, w.Packet); err != nil {
		return w, err
	}
	if w.Answer, err = n.kernel.Lookup(w.Packet); err != nil {
		return w, err
	}
	if w.HasEgress() && w.Answer.Link != 0 {
		w.Translation, err = n.kernel.Translation(f.Pod, w.Packet.Mark, w.Answer.Link)
	}
	return w, err
}

// readFlow reads where the pod's packets come in, and what they need to leave.
func (n *Node) readFlow(w *egress.Way) error {
	in, ok, err := n.kernel.LinkTo(w.Flow.Pod)
	if err != nil {
		return err
	}
	if !ok {
		return fmt.Errorf("%s: the node has no link to %s (`ip route get %s`), so the pod is not running; its DEL is still to come",
			w.Title(), w.Flow.Pod, w.Flow.Pod)
	}
	w.Packet.In = in
	links, err := n.kernel.Links(nil, []int{w.Flow.Index})
	if err != nil {
		return err
	}
	if len(links) > 0 {
		w.Link = links[0]
	}
	addresses, err := n.kernel.Addresses()
	w.HasAddress = slices.ContainsFunc(addresses, func(a egress.LinkAddress) bool {
		return a.Index == w.Flow.Index && a.Network.Addr() == w.Flow.Address
	})
	return err
}

// steps looks the rules' tables up, until one decides.
func (n *Node) steps(rules []egress.Rule, p egress.Packet) ([]egress.Step, error) {
	var steps []egress.Step
	for _, r := range egress.Visited(rules, p) {
		s := egress.Step{Rule: r, Route: egress.Route{Type: r.Refuses}}
		if r.Table != 0 {
			routes, err := n.kernel.AllRoutes(egress.FamilyOf(p.To), r.Table)
			if err != nil {
				return nil, err
			}
			s.Route = egress.LongestMatch(routes, p.To)
		}
		if s.Route.Link != 0 {
			var err error
			if s.Link, err = n.kernel.Name(s.Route.Link); err != nil {
				return nil, err
			}
		}
		steps = append(steps, s)
		if s.Decides() {
			break
		}
	}
	return steps, nil
}
