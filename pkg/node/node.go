// Package node does what the CNI verbs and the commands ask for, on the node that the process
// runs on. Each changes what is recorded (package record) and has the kernel follow:
// [Node.converge] reads (package kernel), compares with what package egress says should exist, and
// writes the difference in the one order in which nothing is lost when the process is killed
// between two steps.
package node

import (
	"github.com/egress-ip/egress-ip/pkg/egress"
	"github.com/egress-ip/egress-ip/pkg/kernel"
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

// linkName names the link with an ifindex, see [egress.LinkName].
func (n *Node) linkName(index int) string {
	if name, err := n.kernel.Name(index); err == nil {
		return name
	}
	return egress.Unnamed(index)
}
