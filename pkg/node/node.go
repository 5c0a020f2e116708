// Package node does what the CNI verbs and the commands ask for, on the node that the process
// runs on. Each changes what is recorded (package record) and has the kernel follow:
// [Node.converge] reads (package kernel), compares with what package egress says should exist, and
// writes the difference in the one order in which nothing is lost when the process is killed
// between two steps.
package node

import (
	"errors"
	"log/slog"
	"net/netip"
	"slices"

	"github.com/egress-ip/egress-ip/pkg/egress"
	"github.com/egress-ip/egress-ip/pkg/kernel"
	"github.com/egress-ip/egress-ip/pkg/names"
	"github.com/egress-ip/egress-ip/pkg/record"
)

// Node is the network namespace of the calling thread, which must be locked to
// its goroutine or in the process's own namespace.
type Node struct {
	kernel *kernel.Kernel
	store  record.Store
	unlock func()
	read   *record.Records // see records
	held   *kernel.HeldGuard
}

// Open connects to the node. It changes nothing.
func Open() (*Node, error) {
	store, err := record.Open()
	if err != nil {
		return nil, err
	}
	return &Node{kernel: kernel.Open(), store: store}, nil
}

// Hold has a resync tell the guard, too, which outlives the node.
func (n *Node) Hold(guard *kernel.HeldGuard) { n.held = guard }

// Close lets other calls go on.
func (n *Node) Close() {
	n.kernel.Close()
	n.release()
}

// release lets other calls go on for a while.
func (n *Node) release() {
	if n.unlock != nil {
		n.unlock()
		n.unlock, n.read = nil, nil
	}
}

// lock keeps other calls out until Close.
func (n *Node) lock() error {
	if n.unlock != nil {
		return nil
	}
	unlock, err := n.store.Lock()
	n.unlock, n.read = unlock, nil
	return err
}

// ReadError says that the node could not be read, so that nothing has been changed.
type ReadError struct{ err error }

func (e *ReadError) Error() string { return e.err.Error() }
func (e *ReadError) Unwrap() error { return e.err }

// linkName names the link with an ifindex, see [egress.LinkName].
func (n *Node) linkName(index int) string {
	if name, err := n.kernel.Name(index); err == nil {
		return name
	}
	return egress.Unnamed(index)
}

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

// find returns what an owner has; damaged is set where its record cannot be read and never will be.
func find(store record.Store, o egress.Owner) (a egress.Attachment, ok bool, damaged *record.DamagedError, err error) {
	a, ok, err = store.Find(o)
	if errors.As(err, &damaged) {
		err = nil
	}
	return a, ok, damaged, err
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

// nameTables keeps iproute2's names of the recorded tables true. Names are a
// courtesy: where they cannot be written, all else goes on.
func (n *Node) nameTables() {
	tables, err := n.store.Tables()
	if err == nil {
		err = names.Set(tableNames(tables))
	}
	if err != nil {
		slog.Warn("could not name the routing tables for iproute2", "error", err)
	}
}

func tableNames(tables []egress.Table) map[uint32]string {
	byNumber := map[uint32]string{}
	for _, t := range tables {
		byNumber[t.Table] = t.Link
	}
	return byNumber
}
