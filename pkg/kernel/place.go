package kernel

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/egress-ip/egress-ip/pkg/egress"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// PodLink returns the ifindex of the link by which the packets of a pod of this node
// arrive, 0 where that is not known, and whether the pod is a port of a bridge there.
//
// A veth that the main plugin names is the pod's own. As the port of a bridge it is not
// what packets are seen to arrive by: that is the link by which the node reaches the pod,
// as it is where the plugin names no link.
func (k *Kernel) PodLink(hostInterfaces []string, pod netip.Addr) (index int, bridged bool, err error) {
	for _, name := range hostInterfaces {
		l, err := k.rt().LinkByName(name)
		if errors.As(err, &netlink.LinkNotFoundError{}) {
			continue
		}
		if err != nil {
			return 0, false, fmt.Errorf("read link %s: %w", name, err)
		}
		if _, is := l.(*netlink.Bridge); is {
			continue
		}
		master := l.Attrs().MasterIndex
		if master == 0 {
			return l.Attrs().Index, false, nil
		}
		above, err := k.rt().LinkByIndex(master)
		if err != nil {
			return 0, false, fmt.Errorf("read the master of link %s: %w", name, err)
		}
		switch above.(type) {
		case *netlink.Bridge:
			bridged = true
		case *netlink.Vrf:
			return 0, false, nil // packets arrive twice, by the link and by the VRF
		}
	}
	answer, err := k.lookup(pod, unix.RTM_F_FIB_MATCH)
	if err != nil || answer.Refusal != 0 || answer.Type != egress.Unicast || answer.Dst.Bits() == 0 {
		return 0, false, err
	}
	l, err := k.rt().LinkByIndex(answer.Link)
	if err != nil {
		return 0, false, fmt.Errorf("read link with index %d: %w", answer.Link, err)
	}
	if master := l.Attrs().MasterIndex; master != 0 {
		above, err := k.rt().LinkByIndex(master)
		if err != nil {
			return 0, false, fmt.Errorf("read the master of link %s: %w", l.Attrs().Name, err)
		}
		if _, is := above.(*netlink.Vrf); is {
			return 0, false, nil // as above
		}
	}
	_, isBridge := l.(*netlink.Bridge)
	return answer.Link, bridged || isBridge, nil
}
