package kernel

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/egress-ip/egress-ip/pkg/egress"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// notOrdinary are the IFA_F_* of addresses that a node does not leave with.
// IFA_F_SECONDARY is IFA_F_TEMPORARY for IPv6.
const notOrdinary = unix.IFA_F_SECONDARY | unix.IFA_F_DEPRECATED | unix.IFA_F_TENTATIVE | unix.IFA_F_DADFAILED

// Addresses returns the addresses of every link but the loopback addresses, in
// the kernel's order. Ours is not set: only the record knows.
func (k *Kernel) Addresses() ([]egress.LinkAddress, error) {
	all, err := dump(func() ([]netlink.Addr, error) { return k.rt().AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("read addresses: %w", err)
	}
	var addresses []egress.LinkAddress
	for _, a := range all {
		network, ok := toPrefix(a.IPNet)
		if !ok || network.Addr().IsLoopback() {
			continue
		}
		addresses = append(addresses, egress.LinkAddress{
			Index:   a.LinkIndex,
			Network: network,
			Unconfirmed: a.Flags&unix.IFA_F_DADFAILED != 0 ||
				a.Flags&unix.IFA_F_TENTATIVE != 0 && a.Flags&unix.IFA_F_OPTIMISTIC == 0,
			Ordinary: a.Scope == unix.RT_SCOPE_UNIVERSE && a.Flags&notOrdinary == 0,
		})
	}
	return addresses, nil
}

// AddAddress puts an egress address on its link; added is false where it stood
// there already.
func (k *Kernel) AddAddress(a egress.Address) (added bool, err error) {
	addr := &netlink.Addr{IPNet: fromPrefix(egress.Host(a.Address)), LinkIndex: a.Link}
	if a.Address.Is6() {
		// No wait for duplicate address detection while a pod starts; no /128 in
		// main; and, deprecated, never the source of the node's own connections.
		addr.Flags = unix.IFA_F_NODAD | unix.IFA_F_NOPREFIXROUTE
		addr.ValidLft = math.MaxUint32
	}
	err = k.rt().AddrAdd(nil, addr)
	if errors.Is(err, unix.EEXIST) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("add address %s: %w", a, noAnswer(err))
	}
	if a.Address.Is6() {
		return true, k.awaitLocal(a)
	}
	return true, nil
}

// awaitLocal waits until an IPv6 address that was added works: the kernel joins
// its solicited-node group, and adds its local route, a moment later, in a
// workqueue. Solicitations of that moment would wait a second for the next try.
func (k *Kernel) awaitLocal(a egress.Address) error {
	const most, step = time.Second, time.Millisecond
	filter := routeQuery{table: unix.RT_TABLE_LOCAL, link: a.Link, typ: egress.Local}
	for deadline := time.Now().Add(most); time.Now().Before(deadline); time.Sleep(step) {
		routes, err := k.routes(egress.IPv6, filter, anyRoute)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(routes, func(r egress.Route) bool { return r.Dst == egress.Host(a.Address) }) {
			return nil
		}
	}
	return nil // slow, but not wrong
}

// DeleteAddress takes an egress address off its link.
func (k *Kernel) DeleteAddress(a egress.Address) error {
	addr := &netlink.Addr{IPNet: fromPrefix(egress.Host(a.Address)), LinkIndex: a.Link}
	if err := k.rt().AddrDel(nil, addr); err != nil && !gone(err) {
		return fmt.Errorf("delete address %s: %w", a, noAnswer(err))
	}
	return nil
}

func toPrefix(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	a, ok := netip.AddrFromSlice(n.IP)
	if !ok {
		return netip.Prefix{}, false
	}
	bits, size := n.Mask.Size()
	if a = a.Unmap(); size != a.BitLen() {
		return netip.Prefix{}, false
	}
	return netip.PrefixFrom(a, bits), true
}

func fromPrefix(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func family(f egress.Family) int {
	if f == egress.IPv4 {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

func familyOf(a netip.Addr) int { return family(egress.FamilyOf(a)) }
