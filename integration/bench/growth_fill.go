package main

import (
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"

	"github.com/egress-ip/egress-ip/pkg/egress"
	"github.com/egress-ip/egress-ip/pkg/nettest"
	egressnode "github.com/egress-ip/egress-ip/pkg/node"
	"github.com/egress-ip/egress-ip/pkg/record"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// fillPods gives a node so many annotated pods, of which there is nothing but
// their egress: one by a call, the others recorded after its example and put up
// by one resync.
func fillPods(s *scope, lab *nettest.Lab, dir string, pods int) {
	first := lab.PodVeth(s, "10.244.128.1", "")
	stands := call{"ADD", "container-00000", first.Path(), stdin(s, egressConfig(egressAddress("192.168.124.99")), first, "10.244.128.1/32")}
	_, err := stands.measure(lab.Node, dir, "egress-ip")
	s.must(err)
	if pods == 1 {
		return
	}
	lab.Node.Do(s, func() { err = recordPods(pods) })
	s.must(err)
}

func recordPods(pods int) error {
	store, err := record.Open()
	if err != nil {
		return err
	}
	like, ok, err := store.Find(egress.Owner{ContainerID: "container-00000", IfName: "eth0"})
	if err != nil || !ok {
		return fmt.Errorf("the first pod's record: %t, %w", ok, err)
	}
	for i := 1; i < pods; i++ {
		a := like
		a.ContainerID = container(i)
		a.Flows = []egress.Flow{like.Flows[0]}
		a.Flows[0].Pod = netip.AddrFrom4([4]byte{10, 244, 128 + byte(i/250), 1 + byte(i%250)})
		if err := store.Put(a); err != nil {
			return err
		}
	}
	n, err := egressnode.Open()
	if err != nil {
		return err
	}
	defer n.Close()
	_, err = n.Resync()
	return err
}

// fillRoutes gives the main table routes by the primary link.
func fillRoutes(s *scope, lab *nettest.Lab, routes int) {
	if routes == 0 {
		return
	}
	var batch strings.Builder
	for i := range routes {
		fmt.Fprintf(&batch, "route add %d.%d.%d.0/24 via %s\n", 20+i>>16, byte(i>>8), byte(i), nettest.PrimaryGatewayIPv4)
	}
	cmd := exec.CommandContext(s.ctx, "ip", "-batch", "-")
	cmd.Stdin = strings.NewReader(batch.String())
	s.must(lab.Node.Run(cmd))
}

// fillConnections gives conntrack connections of others' pods.
func fillConnections(s *scope, lab *nettest.Lab, connections int) {
	if connections == 0 {
		return
	}
	var err error
	lab.Node.Do(s, func() { err = createConnections(connections) })
	s.must(err)
}

func createConnections(connections int) error {
	h, err := netlink.NewHandle(unix.NETLINK_NETFILTER)
	if err != nil {
		return err
	}
	defer h.Close()
	for i := range connections {
		pod, server := net.IP{10, 245, byte(i >> 8), byte(i)}, net.IP{10, 246, byte(i >> 16), 1}
		err := h.ConntrackCreate(netlink.ConntrackTable, unix.AF_INET, &netlink.ConntrackFlow{
			FamilyType: unix.AF_INET, TimeOut: 3600,
			Forward: netlink.IPTuple{SrcIP: pod, DstIP: server, Protocol: unix.IPPROTO_UDP, SrcPort: 1000, DstPort: 53},
			Reverse: netlink.IPTuple{SrcIP: server, DstIP: pod, Protocol: unix.IPPROTO_UDP, SrcPort: 53, DstPort: 1000},
		})
		if err != nil {
			return fmt.Errorf("connection %d of %d (net.netfilter.nf_conntrack_max?): %w", i, connections, err)
		}
	}
	return nil
}
