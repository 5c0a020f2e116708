package node

import (
	"errors"
	"log/slog"
	"net/netip"
	"slices"

	"github.com/egress-ip/egress-ip/pkg/egress"
	"github.com/egress-ip/egress-ip/pkg/record"
)

// records returns the attachments as they are recorded, read once, and again once the lock
// has been taken. Under the lock, what is damaged is set aside.
func (n *Node) records() (*record.Records, error) {
	if n.read != nil {
		return n.read, nil
	}
	records, err := n.store.Records()
	if err != nil {
		return nil, err
	}
	n.read = records
	if n.unlock == nil {
		return records, nil
	}
	n.store.Copy(records)
	return records, n.setAside(records.Damaged)
}

// setAside sets damaged records aside, under the lock.
func (n *Node) setAside(damaged []*record.DamagedError) error {
	for _, d := range damaged {
		if d.IsAside() {
			continue
		}
		slog.Warn("a record is set aside", "error", d)
		if err := n.store.SetAside(d); err != nil {
			return err
		}
	}
	return nil
}

// put records an attachment.
func (n *Node) put(a egress.Attachment) error {
	n.read = nil
	return n.store.Put(a)
}

// find returns what an owner had before. What is damaged is about to be replaced.
func (n *Node) find(o egress.Owner) (egress.Attachment, bool, error) {
	a, ok, err := n.store.Find(o)
	if damaged := (*record.DamagedError)(nil); errors.As(err, &damaged) {
		return egress.Attachment{}, false, nil
	}
	return a, ok, err
}

// claims returns the attachments, but one owner's, that claim one of the pod addresses, with
// the flows that do.
func (n *Node) claims(pods []netip.Addr, but egress.Owner) ([]ending, error) {
	records, err := n.records()
	if err != nil {
		return nil, err
	}
	var claims []ending
	for _, a := range records.Concerning(pods, but) {
		flows := slices.DeleteFunc(slices.Clone(a.Flows), func(f egress.Flow) bool { return !slices.Contains(pods, f.Pod) })
		if len(flows) > 0 {
			claims = append(claims, ending{a, flows})
		}
	}
	return claims, nil
}

// sharer returns a flow that is so; what attachments share they all say the same of.
func (n *Node) sharer(is func(egress.Flow) bool) (egress.Attachment, egress.Flow, bool, error) {
	records, err := n.records()
	if err != nil {
		return egress.Attachment{}, egress.Flow{}, false, err
	}
	for _, a := range records.Concerning(nil) {
		if i := slices.IndexFunc(a.Flows, is); i >= 0 {
			return a, a.Flows[i], true, nil
		}
	}
	return egress.Attachment{}, egress.Flow{}, false, nil
}

// podsOf returns the pod addresses of attachments.
func podsOf(attachments []egress.Attachment) []netip.Addr {
	var pods []netip.Addr
	for _, a := range attachments {
		for _, f := range a.Flows {
			pods = append(pods, f.Pod)
		}
	}
	return pods
}
