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

// claims returns the attachments that claim a pod address, but one owner's.
func (n *Node) claims(pod netip.Addr, but egress.Owner) ([]egress.Attachment, error) {
	records, err := n.records()
	if err != nil {
		return nil, err
	}
	var claims []egress.Attachment
	for a := range records.Claiming(pod) {
		if a.Owner != but {
			claims = append(claims, a)
		}
	}
	return claims, nil
}

// mine returns the flows whose pod address no other attachment has taken over.
func (n *Node) mine(a egress.Attachment, flows []egress.Flow) ([]egress.Flow, error) {
	var mine []egress.Flow
	for _, f := range flows {
		others, err := n.claims(f.Pod, a.Owner)
		if err != nil {
			return nil, err
		}
		if egress.Owners(append(others, a))[f.Pod] == a.Owner {
			mine = append(mine, f)
		}
	}
	return mine, nil
}

// unneeded returns the shared objects of flows that nobody else needs: neither another
// attachment nor the flows that this one keeps. An attachment whose file is damaged may
// need any of them.
func (n *Node) unneeded(a egress.Attachment, flows, left []egress.Flow) ([]egress.Object, error) {
	records, err := n.records()
	if err != nil || slices.ContainsFunc(records.Damaged, func(d *record.DamagedError) bool { return d.Owner() != a.Owner }) {
		return nil, err
	}
	kept := a.Objects(left...)
	needed := map[egress.Object]bool{}
	var unneeded []egress.Object
	for _, o := range a.Objects(flows...) {
		for other := range records.Mentioning(o.Mentioned()) {
			if needed[o] {
				break // as a rule by the first that was asked
			}
			if other.Owner == a.Owner {
				continue
			}
			for _, needs := range other.Objects(other.Flows...) {
				needed[needs] = true
			}
		}
		if !needed[o] && !slices.Contains(kept, o) {
			unneeded = append(unneeded, o)
		}
	}
	return unneeded, nil
}
