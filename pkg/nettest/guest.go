//go:build guest

package nettest

import (
	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// NewGuestLab is a lab whose node is the machine itself, a guest that exists for this test alone: programs that
// manage a machine's network have to find the node's links there. The uplinks eth0 and enp7s0 have no addresses and no
// routes: those programs configure them. Nothing of the node is removed when the test ends.
func NewGuestLab(t T) *Lab {
	t.Helper()
	initial, err := ns.GetNS("/proc/1/ns/net")
	if err != nil {
		t.Fatalf("the guest's namespace: %v", err)
	}
	node := &Namespace{name: "guest", netns: initial}
	err = node.inside(func() (err error) {
		node.netlink, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	})
	if err != nil {
		t.Fatalf("the guest's namespace: netlink: %v", err)
	}
	return newLab(t, node, uplinks(LabOptions{}))
}
