package kernel

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/egress-ip/egress-ip/pkg/egress"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Links returns the links with these names and indexes, each once; those that
// do not exist are left out.
func (k *Kernel) Links(names []string, indexes []int) ([]egress.Link, error) {
	var links []egress.Link
	seen := map[int]bool{}
	add := func(l netlink.Link, err error) error {
		if errors.As(err, &netlink.LinkNotFoundError{}) {
			return nil
		}
		if err != nil {
			return err
		}
		a := l.Attrs()
		if seen[a.Index] || a.Flags&net.FlagLoopback != 0 {
			return nil
		}
		seen[a.Index] = true
		master, err := k.master(l)
		if err != nil {
			return err
		}
		links = append(links, egress.Link{
			Name: a.Name, Index: a.Index, Table: tableOf(master), Unfit: unfit(l, master),
			Up: a.Flags&net.FlagUp != 0, Carrier: a.Flags&net.FlagRunning != 0,
		})
		return nil
	}
	for _, name := range names {
		if err := add(k.rt().LinkByName(name)); err != nil {
			return nil, fmt.Errorf("read link %s: %w", name, noAnswer(err))
		}
	}
	for _, index := range indexes {
		if seen[index] {
			continue
		}
		if err := add(k.rt().LinkByIndex(index)); err != nil {
			return nil, fmt.Errorf("read link with index %d: %w", index, noAnswer(err))
		}
	}
	return links, nil
}

// master returns the link of which a link is a port or slave; nil where it is none.
func (k *Kernel) master(l netlink.Link) (netlink.Link, error) {
	index := l.Attrs().MasterIndex
	if index == 0 {
		return nil, nil
	}
	master, err := k.rt().LinkByIndex(index)
	if err != nil {
		return nil, fmt.Errorf("read the master, with index %d, of link %s: %w", index, l.Attrs().Name, err)
	}
	return master, nil
}

// tableOf returns where the routes of a link with this master are: the table of its VRF, or main.
func tableOf(master netlink.Link) uint32 {
	if vrf, ok := master.(*netlink.Vrf); ok {
		return vrf.Table
	}
	return egress.MainTable
}

// unfit says why a link cannot carry egress; it is empty for one that can. All other kinds of
// links are taken to be able to.
func unfit(l, master netlink.Link) string {
	if _, isVRF := master.(*netlink.Vrf); master != nil && !isVRF {
		name := master.Attrs().Name
		return fmt.Sprintf("it is a port of %s, which takes what arrives by it; choose %s, or the link that has its addresses", name, name)
	}
	switch l := l.(type) {
	case *netlink.Dummy, *netlink.Ifb:
		return fmt.Sprintf("it is a %s link, which drops what it is to send; choose the link by which packets are to leave", l.Type())
	case *netlink.IPVlan:
		// What such a link sends goes through netfilter and routing once more, in the network namespace of
		// the link below, and in mode l3s so does what it receives. Connection tracking takes the
		// translated packets for those of another connection where that is this namespace.
		below := l.NetNsID < 0 // in this one
		if l.Mode == netlink.IPVLAN_MODE_L3S || l.Mode == netlink.IPVLAN_MODE_L3 && below {
			return "it is an ipvlan link in mode l3 or l3s, whose packets are tracked twice, so that answers do not reach pods; use mode l2, a macvlan link, or the link below it"
		}
	}
	return ""
}

// Name returns the name of the link with this index.
func (k *Kernel) Name(index int) (string, error) {
	l, err := k.rt().LinkByIndex(index)
	if err != nil {
		return "", fmt.Errorf("read link with index %d: %w", index, noAnswer(err))
	}
	return l.Attrs().Name, nil
}

// PodLink returns the ifindex of the link by which the packets of a pod of this node
// arrive, 0 where that is not known, and whether the pod is a port of a bridge there.
//
// A veth that the main plugin names is the pod's own. As the port of a bridge it is not
// what packets are seen to arrive by: that is the link by which the node reaches the pod,
// as it is where the plugin names no link. In a VRF packets arrive twice, by the link and by the VRF.
func (k *Kernel) PodLink(hostInterfaces []string, pod netip.Addr) (index int, bridged bool, err error) {
	for _, name := range hostInterfaces {
		l, err := k.rt().LinkByName(name)
		if errors.As(err, &netlink.LinkNotFoundError{}) {
			continue
		}
		if err != nil {
			return 0, false, fmt.Errorf("read link %s: %w", name, err)
		}
		if isBridge(l) {
			continue
		}
		master, err := k.master(l)
		switch {
		case err != nil:
			return 0, false, err
		case master == nil:
			return l.Attrs().Index, false, nil
		case master.Type() == "vrf":
			return 0, false, nil
		}
		bridged = bridged || isBridge(master)
	}
	index, err = k.linkTo(pod)
	if err != nil || index == 0 {
		return 0, false, err
	}
	l, err := k.rt().LinkByIndex(index)
	if err != nil {
		return 0, false, fmt.Errorf("read link with index %d: %w", index, err)
	}
	master, err := k.master(l)
	if err != nil || master != nil && master.Type() == "vrf" {
		return 0, false, err
	}
	return index, bridged || isBridge(l), nil
}

func isBridge(l netlink.Link) bool {
	_, is := l.(*netlink.Bridge)
	return is
}

// Addresses returns the addresses of every link but the loopback addresses, in
// the kernel's order. Ours is not set: only the record knows.
func (k *Kernel) Addresses() ([]egress.LinkAddress, error) {
	all, err := dump(func() ([]netlink.Addr, error) { return k.rt().AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("read addresses: %w", err)
	}
	// A node does not leave with these. IFA_F_SECONDARY is IFA_F_TEMPORARY for IPv6.
	const notOrdinary = unix.IFA_F_SECONDARY | unix.IFA_F_DEPRECATED | unix.IFA_F_TENTATIVE | unix.IFA_F_DADFAILED
	var addresses []egress.LinkAddress
	for _, a := range all {
		if a.IPNet == nil {
			continue
		}
		address, _ := netip.AddrFromSlice(a.IP)
		if address = address.Unmap(); !address.IsValid() || address.IsLoopback() {
			continue
		}
		bits, _ := a.Mask.Size()
		addresses = append(addresses, egress.LinkAddress{
			Index:   a.LinkIndex,
			Network: netip.PrefixFrom(address, bits),
			Unconfirmed: a.Flags&unix.IFA_F_DADFAILED != 0 ||
				a.Flags&unix.IFA_F_TENTATIVE != 0 && a.Flags&unix.IFA_F_OPTIMISTIC == 0,
			Ordinary: a.Scope == unix.RT_SCOPE_UNIVERSE && a.Flags&notOrdinary == 0,
		})
	}
	return addresses, nil
}

// addAddress adds an egress address to its link, and tells the link's neighbours, unless the link had it already.
func (k *Kernel) addAddress(a egress.Address) error {
	addr := &netlink.Addr{IPNet: fromPrefix(egress.Host(a.Address)), LinkIndex: a.Link}
	if a.Address.Is6() {
		// No wait for duplicate address detection while a pod starts; no /128 in
		// main; and, deprecated, never the source of the node's own connections.
		addr.Flags = unix.IFA_F_NODAD | unix.IFA_F_NOPREFIXROUTE
		addr.ValidLft = math.MaxUint32
	}
	err := k.rt().AddrAdd(nil, addr)
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("add address %s: %w", a, noAnswer(err))
	}
	if a.Address.Is6() {
		if err := k.awaitLocal(a); err != nil {
			return err
		}
	}
	// A firewall may drop it, even our own chain that is still to be repaired: then neighbours
	// find out later.
	if err := k.announce(a); err != nil {
		slog.Warn("neighbours may look for an address elsewhere for a while", "error", err)
	}
	return nil
}

// awaitLocal waits until an IPv6 address that was added works: the kernel joins
// its solicited-node group, and adds its local route, a moment later, in a
// workqueue. Solicitations of that moment would wait a second for the next try.
func (k *Kernel) awaitLocal(a egress.Address) error {
	const most, step = time.Second, time.Millisecond
	query := routeQuery{table: unix.RT_TABLE_LOCAL, link: a.Link, typ: egress.Local}
	for deadline := time.Now().Add(most); time.Now().Before(deadline); time.Sleep(step) {
		routes, err := k.routes(egress.IPv6, query, anyRoute)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(routes, func(r egress.Route) bool { return r.Dst == egress.Host(a.Address) }) {
			return nil
		}
	}
	return nil // slow, but not wrong
}

// deleteAddress takes an egress address off its link.
func (k *Kernel) deleteAddress(a egress.Address) error {
	addr := &netlink.Addr{IPNet: fromPrefix(egress.Host(a.Address)), LinkIndex: a.Link}
	if err := k.rt().AddrDel(nil, addr); err != nil && !gone(err) {
		return fmt.Errorf("delete address %s: %w", a, noAnswer(err))
	}
	return nil
}

func fromPrefix(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// family is AF_INET or AF_INET6.
func family(f egress.Family) int {
	if f == egress.IPv4 {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// AllLinks is the name below which a sysctl counts for every link of the node.
const AllLinks = "all"

const (
	// conf has a directory of sysctls for each link, those of the process's own network
	// namespace, as all of /proc/sys/net does.
	conf = "/proc/sys/net/ipv4/conf"
	// In a container all of /proc/sys is read-only, whatever its capabilities, and a
	// runtime mounts nothing into it. So the DaemonSet has that directory of the node's
	// mounted here, where it is the same to a pod in the node's network namespace.
	mountedConf = "/host" + conf
)

// SrcValidMark reports whether the way back of packets that come by a link is looked up
// with their mark. It is not for a link that does not exist.
func SrcValidMark(link string) (bool, error) {
	value, err := readSysctl(srcValidMark(conf, link))
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return value == "1", err
}

// SetSrcValidMark says whether it is to be; a link that does not exist needs nothing.
func SetSrcValidMark(link string, on bool) error {
	value := "0"
	if on {
		value = "1"
	}
	err := os.WriteFile(srcValidMark(conf, link), []byte(value), 0)
	if errors.Is(err, unix.EROFS) && os.WriteFile(srcValidMark(mountedConf, link), []byte(value), 0) == nil {
		return nil
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("set net.ipv4.conf.%s.src_valid_mark to %s: %w", link, value, err)
	}
	return nil
}

func srcValidMark(conf, link string) string { return filepath.Join(conf, link, "src_valid_mark") }

func readSysctl(path string) (string, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read a sysctl: %w", err)
	}
	return strings.TrimSpace(string(data)), nil
}
