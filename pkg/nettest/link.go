package nettest

import (
	"time"

	"github.com/vishvananda/netlink"
)

// usableWithin is how long a link may take from up to usable. It takes milliseconds, unless the machine is very busy.
var usableWithin = Within(20 * time.Second)

// Connect makes a veth pair between two namespaces, both ends up and usable at once, IPv6 link-local addresses included.
func Connect(t T, a *Namespace, aLink string, b *Namespace, bLink string) {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = aLink
	pair := &netlink.Veth{LinkAttrs: attrs, PeerName: bLink, PeerNamespace: netlink.NsFd(int(b.netns.Fd()))}
	if err := a.netlink.LinkAdd(pair); err != nil {
		t.Fatalf("connect %s of %s to %s of %s: %v", aLink, a.name, bLink, b.name, err)
	}
	a.SetUp(t, aLink)
	b.SetUp(t, bLink)
	a.WaitUsable(t, aLink)
	b.WaitUsable(t, bLink)
}

// Link is the link of that name.
func (n *Namespace) Link(t T, link string) netlink.Link {
	t.Helper()
	l, err := n.netlink.LinkByName(link)
	if err != nil {
		t.Fatalf("link %s of %s: %v", link, n.name, err)
	}
	return l
}

// Index is the ifindex of the link.
func (n *Namespace) Index(t T, link string) int {
	t.Helper()
	return n.Link(t, link).Attrs().Index
}

// SetUp sets the link up and does not wait; see WaitUsable, for both ends of a veth.
func (n *Namespace) SetUp(t T, link string) {
	t.Helper()
	if err := n.netlink.LinkSetUp(n.Link(t, link)); err != nil {
		t.Fatalf("link %s of %s: set up: %v", link, n.name, err)
	}
}

// SetDown sets the link down. The kernel then deletes its routes and its IPv6 addresses.
func (n *Namespace) SetDown(t T, link string) {
	t.Helper()
	if err := n.netlink.LinkSetDown(n.Link(t, link)); err != nil {
		t.Fatalf("link %s of %s: set down: %v", link, n.name, err)
	}
}

// DeleteLink deletes the link, and the other end of a veth.
func (n *Namespace) DeleteLink(t T, link string) {
	t.Helper()
	if err := n.netlink.LinkDel(n.Link(t, link)); err != nil {
		t.Fatalf("link %s of %s: delete: %v", link, n.name, err)
	}
}

// WaitUsable waits until the link is operational, has an IPv6 link-local address, and all its IPv6 addresses are in use.
func (n *Namespace) WaitUsable(t T, link string) {
	t.Helper()
	for deadline := time.Now().Add(usableWithin); ; time.Sleep(time.Millisecond) {
		if n.usable(t, link) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("link %s of %s: not usable after %v (other end down, or IPv6 disabled?)", link, n.name, usableWithin)
		}
	}
}

// usable needs more than carrier: until the kernel's link watch has made the link operational, what is sent is dropped.
func (n *Namespace) usable(t T, link string) bool {
	t.Helper()
	l := n.Link(t, link)
	if l.Attrs().OperState != netlink.OperUp {
		return false
	}
	linkLocal := false
	local := n.localIPv6(t, l)
	for _, a := range n.addresses(t, l, netlink.FAMILY_V6) {
		if !local[addressOf(a)] {
			return false
		}
		linkLocal = linkLocal || a.IP.IsLinkLocalUnicast()
	}
	return linkLocal
}
