package nettest

import (
	"errors"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// AddAddress adds an address like "192.0.2.1/24" to the link. IPv6 ones are usable at once (nodad).
func (n *Namespace) AddAddress(t T, link, prefix string) {
	t.Helper()
	address := parseAddress(t, prefix)
	if address.IP.To4() == nil {
		address.Flags = unix.IFA_F_NODAD
	}
	if err := n.netlink.AddrAdd(n.Link(t, link), address); err != nil {
		t.Fatalf("link %s of %s: add %s: %v", link, n.name, prefix, err)
	}
}

// DeleteAddress deletes an address like "192.0.2.1/24" from the link.
func (n *Namespace) DeleteAddress(t T, link, prefix string) {
	t.Helper()
	if err := n.netlink.AddrDel(n.Link(t, link), parseAddress(t, prefix)); err != nil {
		t.Fatalf("link %s of %s: delete %s: %v", link, n.name, prefix, err)
	}
}

// Addresses of the link, both families, link-local ones included.
func (n *Namespace) Addresses(t T, link string) []netip.Prefix {
	t.Helper()
	var prefixes []netip.Prefix
	for _, a := range n.addresses(t, n.Link(t, link), netlink.FAMILY_ALL) {
		address, _ := netip.AddrFromSlice(a.IP)
		ones, _ := a.Mask.Size()
		prefixes = append(prefixes, netip.PrefixFrom(address.Unmap(), ones))
	}
	return prefixes
}

// LinkLocal is the IPv6 link-local address of the link, without a zone. A link made by Connect has one.
func (n *Namespace) LinkLocal(t T, link string) netip.Addr {
	t.Helper()
	for _, prefix := range n.Addresses(t, link) {
		if prefix.Addr().Is6() && prefix.Addr().IsLinkLocalUnicast() {
			return prefix.Addr()
		}
	}
	t.Fatalf("link %s of %s: no IPv6 link-local address", link, n.name)
	return netip.Addr{}
}

func (n *Namespace) addresses(t T, link netlink.Link, family int) []netlink.Addr {
	t.Helper()
	for {
		addresses, err := n.netlink.AddrList(link, family)
		if errors.Is(err, netlink.ErrDumpInterrupted) {
			continue // something changed while the kernel was answering
		}
		if err != nil {
			t.Fatalf("link %s of %s: list addresses: %v", link.Attrs().Name, n.name, err)
		}
		return addresses
	}
}

func parseAddress(t T, prefix string) *netlink.Addr {
	t.Helper()
	address, err := netlink.ParseAddr(prefix)
	if err != nil {
		t.Fatalf("%q is not an address with a prefix length: %v", prefix, err)
	}
	return address
}
