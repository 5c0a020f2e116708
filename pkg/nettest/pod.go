package nettest

import (
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
)

// podGatewayIPv4 is every pod's next hop. No link has it: pods have a permanent neighbour entry for it.
const podGatewayIPv4 = "169.254.1.1"

// Pod is a pod's namespace, with the link eth0 in it.
type Pod struct {
	*Namespace
	HostLink string // the node's end of the veth
}

// PodVeth makes a pod on the node without a CNI plugin, the way ptp does: a veth, the pod's addresses as /32 and /128,
// routes to them in the node's main table, and default routes in the pod. An empty address leaves its family out.
// The node's address is on none of the pod's networks and no address is on the node's end of the veth.
func (l *Lab) PodVeth(t T, podAddr4, podAddr6 string) *Pod {
	t.Helper()
	pod := &Pod{Namespace: New(t, "pod "+podAddr4+" "+podAddr6), HostLink: fmt.Sprintf("veth%d", l.pods.Add(1))}
	Connect(t, l.Node, pod.HostLink, pod.Namespace, "eth0")
	if podAddr4 != "" {
		pod.AddAddress(t, "eth0", podAddr4+"/32")
		pod.addGateway(t, l.Node.Link(t, pod.HostLink).Attrs().HardwareAddr)
		pod.AddRoute(t, Route{Dst: defaultIPv4, Via: podGatewayIPv4, Link: "eth0", OnLink: true})
		l.Node.AddRoute(t, Route{Dst: podAddr4 + "/32", Link: pod.HostLink})
	}
	if podAddr6 != "" {
		pod.AddAddress(t, "eth0", podAddr6+"/128")
		pod.AddRoute(t, Route{Dst: defaultIPv6, Via: l.Node.LinkLocal(t, pod.HostLink).String(), Link: "eth0"})
		l.Node.AddRoute(t, Route{Dst: podAddr6 + "/128", Link: pod.HostLink})
	}
	return pod
}

func (p *Pod) addGateway(t T, node net.HardwareAddr) {
	t.Helper()
	err := p.netlink.NeighAdd(&netlink.Neigh{
		LinkIndex:    p.Index(t, "eth0"),
		State:        netlink.NUD_PERMANENT,
		IP:           net.ParseIP(podGatewayIPv4),
		HardwareAddr: node,
	})
	if err != nil {
		t.Fatalf("%s: neighbour entry of the gateway: %v", p.Namespace, err)
	}
}
