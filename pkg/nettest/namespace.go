package nettest

import (
	"errors"
	"fmt"
	"os"

	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/containernetworking/plugins/pkg/testutils"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// mountDirectory is where testutils.NewNS mounts the namespaces of root.
const mountDirectory = "/var/run/netns"

// Namespace is a network namespace that lives as long as the test that made it.
type Namespace struct {
	name    string
	netns   ns.NetNS
	netlink *netlink.Handle
}

// New makes a network namespace with loopback up, duplicate address detection and router advertisements off, and
// the reverse path filter off. Cleanup removes it, and with it its links. The name is only for messages.
func New(t T, name string) *Namespace {
	t.Helper()
	netns, err := create()
	if err != nil {
		t.Fatalf("namespace %s: %v", name, err)
	}
	n := &Namespace{name: name, netns: netns}
	t.Cleanup(func() {
		if err := n.remove(); err != nil {
			t.Fatalf("namespace %s: %v", name, err)
		}
	})
	// A netlink socket stays in the namespace in which it was opened, whichever thread uses it.
	err = n.inside(func() (err error) {
		n.netlink, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	})
	if err != nil {
		t.Fatalf("namespace %s: netlink: %v", name, err)
	}
	n.setDefaults(t)
	n.SetUp(t, "lo")
	return n
}

// Path of the namespace's mount, as CNI_NETNS wants it.
func (n *Namespace) Path() string { return n.netns.Path() }

// String is the name given to New.
func (n *Namespace) String() string { return n.name }

// Netlink is a route netlink handle that works inside the namespace from any goroutine. Do not close it.
func (n *Namespace) Netlink() *netlink.Handle { return n.netlink }

// Do runs f inside the namespace, on a goroutine of its own that is locked to its thread, and waits for it.
// Goroutines that f starts are not inside. If f ends its goroutine (t.FailNow), the caller's test ends too.
func (n *Namespace) Do(t T, f func()) {
	t.Helper()
	returned := false
	err := n.inside(func() error {
		f()
		returned = true
		return nil
	})
	if err != nil {
		t.Fatalf("namespace %s: %v", n.name, err)
	}
	if !returned {
		t.Fatalf("namespace %s: a check inside failed", n.name)
	}
}

// inside is Do for functions with an error, which it returns as it is.
func (n *Namespace) inside(f func() error) error {
	return n.netns.Do(func(ns.NetNS) error { return f() })
}

// create mounts a new namespace. The first NewNS on a machine mounts the directory on itself; were two to do so at the
// same time, the mounts of one would be hidden below the other's for ever. `go test ./...` runs packages as
// parallel processes, hence a file lock instead of a mutex.
func create() (ns.NetNS, error) {
	if err := os.MkdirAll(mountDirectory, 0o755); err != nil {
		return nil, err
	}
	directory, err := os.Open(mountDirectory)
	if err != nil {
		return nil, err
	}
	defer directory.Close() // unlocks
	if err := unix.Flock(int(directory.Fd()), unix.LOCK_EX); err != nil {
		return nil, fmt.Errorf("lock %s: %w", mountDirectory, err)
	}
	return testutils.NewNS()
}

// remove gives up all that holds the namespace, so that the kernel destroys it (soon, not at once).
func (n *Namespace) remove() error {
	if n.netlink != nil {
		n.netlink.Close()
	}
	// Detach: a process being forked elsewhere holds our file descriptors until it execs, and a plain unmount
	// (testutils.UnmountNS) would now and then answer EBUSY.
	return errors.Join(
		n.netns.Close(),
		unix.Unmount(n.Path(), unix.MNT_DETACH),
		os.Remove(n.Path()),
	)
}
