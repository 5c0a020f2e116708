package nettest

import (
	"errors"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// AddAddress adds an address like "192.0.2.1/24" to the link. On a link with carrier it returns when the address is
// usable; IPv6 ones have no duplicate address detection.
func (n *Namespace) AddAddress(t T, link, prefix string) {
	t.Helper()
	address := parseAddress(t, prefix)
	if address.IP.To4() == nil {
		address.Flags = unix.IFA_F_NODAD
	}
	l := n.Link(t, link)
	if err := n.netlink.AddrAdd(l, address); err != nil {
		t.Fatalf("link %s of %s: add %s: %v", link, n.name, prefix, err)
	}
	if address.IP.To4() != nil || l.Attrs().RawFlags&unix.IFF_LOWER_UP == 0 {
		return
	}
	for deadline := time.Now().Add(usableWithin); !n.localIPv6(t, l)[addressOf(*address)]; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("link %s of %s: %s not usable after %v", link, n.name, prefix, usableWithin)
		}
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
		ones, _ := a.Mask.Size()
		prefixes = append(prefixes, netip.PrefixFrom(addressOf(a), ones))
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

// localIPv6 is the set of the link's IPv6 addresses that the kernel has put to use. Even without duplicate address detection
// the kernel leaves the last steps to a work queue: it joins the address's solicited-node group, before which no
// neighbour can find the address, then adds the local route, before which packets to it are not received. So the route
// says that all is done; that the address is not tentative does not.
func (n *Namespace) localIPv6(t T, link netlink.Link) map[netip.Addr]bool {
	t.Helper()
	filter := &netlink.Route{Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_LOCAL, LinkIndex: link.Attrs().Index}
	const mask = netlink.RT_FILTER_TABLE | netlink.RT_FILTER_TYPE | netlink.RT_FILTER_OIF
	for {
		routes, err := n.netlink.RouteListFiltered(netlink.FAMILY_V6, filter, mask)
		if errors.Is(err, netlink.ErrDumpInterrupted) {
			continue
		}
		if err != nil {
			t.Fatalf("link %s of %s: list local routes: %v", link.Attrs().Name, n.name, err)
		}
		local := map[netip.Addr]bool{}
		for _, r := range routes {
			if address, ok := netip.AddrFromSlice(r.Dst.IP); ok {
				local[address] = true
			}
		}
		return local
	}
}

func addressOf(a netlink.Addr) netip.Addr {
	address, _ := netip.AddrFromSlice(a.IP)
	return address.Unmap()
}

func parseAddress(t T, prefix string) *netlink.Addr {
	t.Helper()
	address, err := netlink.ParseAddr(prefix)
	if err != nil {
		t.Fatalf("%q is not an address with a prefix length: %v", prefix, err)
	}
	return address
}
