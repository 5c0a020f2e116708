package kernel

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	cnins "github.com/containernetworking/cni/pkg/ns"
	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// blackhole is a queueing discipline that drops what a link is to send (net/sched/sch_blackhole.c; part
// of every kernel that has any). The link keeps its addresses and routes, which the main plugin's DEL reads.
const blackhole = "blackhole"

// Silence drops whatever a pod sends by a link from now on, until the link is deleted or [Unsilence] is called.
// Where the path to the network namespace does not exist any more, or is that of another pod by now, so
// that the link has none of these pod addresses, it does nothing.
func Silence(path, link string, pods []netip.Addr) error {
	return inPod(path, link, func(h *netlink.Handle, l netlink.Link) error {
		addresses, err := dump(func() ([]netlink.Addr, error) { return h.AddrList(l, unix.AF_UNSPEC) })
		if err != nil {
			return fmt.Errorf("read the addresses of the pod's link %s: %w", link, err)
		}
		if !slices.ContainsFunc(addresses, func(a netlink.Addr) bool {
			on, _ := netip.AddrFromSlice(a.IP)
			return slices.Contains(pods, on.Unmap())
		}) {
			return nil
		}
		if err := h.QdiscReplace(rootQdisc(l)); err != nil {
			return fmt.Errorf("drop what the pod's link %s sends: %w", link, err)
		}
		return nil
	})
}

// Unsilence undoes [Silence], for a link that is attached once more without having been deleted.
func Unsilence(path, link string) error {
	return inPod(path, link, func(h *netlink.Handle, l netlink.Link) error {
		all, err := dump(func() ([]netlink.Qdisc, error) { return h.QdiscList(l) })
		if err != nil {
			return fmt.Errorf("read the queueing discipline of the pod's link %s: %w", link, err)
		}
		for _, q := range all {
			if q.Type() != blackhole || q.Attrs().Parent != netlink.HANDLE_ROOT {
				continue
			}
			if err := h.QdiscDel(rootQdisc(l)); err != nil && !gone(err) {
				return fmt.Errorf("let the pod's link %s send: %w", link, err)
			}
		}
		return nil
	})
}

// rootQdisc is the discipline in the place of the link's default.
func rootQdisc(l netlink.Link) *netlink.GenericQdisc {
	return &netlink.GenericQdisc{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: l.Attrs().Index, Parent: netlink.HANDLE_ROOT},
		QdiscType:  blackhole,
	}
}

// inPod calls do with a link of a network namespace that is not the calling thread's, if there is one.
func inPod(path, link string, do func(*netlink.Handle, netlink.Link) error) error {
	if path == "" {
		return nil
	}
	if same, err := cnins.CheckNetNS(path); err != nil || same {
		return err
	}
	err := ns.WithNetNSPath(path, func(ns.NetNS) error {
		h, err := openHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer h.Close()
		l, err := h.LinkByName(link)
		if errors.As(err, &netlink.LinkNotFoundError{}) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the pod's link %s: %w", link, noAnswer(err))
		}
		return do(h, l)
	})
	if errors.As(err, &ns.NSPathNotExistErr{}) {
		return nil
	}
	return err
}
