package kernel

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/egress-ip/egress-ip/pkg/egress"
	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TestDeleteConntrack: each way to delete leaves the same entries.
func TestDeleteConntrack(t *testing.T) {
	t.Parallel()
	const pod4, pod6 = "10.244.1.5", "fd00:10:244::5"
	both := func(one func(*Kernel, netip.Addr, int) error) func(*Kernel, netip.Addr) error {
		return func(k *Kernel, pod netip.Addr) error {
			if err := one(k, pod, ctaTupleOrig); err != nil {
				return err
			}
			return one(k, pod, ctaTupleReply)
		}
	}
	for name, tt := range map[string]struct {
		pod    string
		delete func(*Kernel, netip.Addr) error
	}{
		"flushed":            {pod4, both((*Kernel).flush)},
		"found, and deleted": {pod4, both((*Kernel).deleteFiltered)},
		"as ADD and DEL do":  {pod4, (*Kernel).deleteConntrack},
		"IPv6":               {pod6, (*Kernel).deleteConntrack},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pod := netip.MustParseAddr(tt.pod)
			family := netlink.InetFamily(family(egress.FamilyOf(pod)))
			other, server, virtual := pod.Next(), pod.Prev(), pod.Prev().Prev()
			node := nettest.New(t, "node")
			node.Do(t, func() {
				k := Open()
				defer k.Close()
				ct, err := netlink.NewHandle(unix.NETLINK_NETFILTER)
				require.NoError(t, err)
				defer ct.Close()
				for port, c := range []struct{ from, to, answersFrom, answersTo netip.Addr }{
					{pod, server, server, virtual},   // opened by the pod, translated
					{server, pod, pod, server},       // opened to it
					{server, virtual, pod, server},   // opened to it by a Service
					{other, server, server, virtual}, // another pod's
					{server, virtual, other, server},
				} {
					require.NoError(t, ct.ConntrackCreate(netlink.ConntrackTable, family, connection(c.from, c.to, c.answersFrom, c.answersTo, uint16(port+1))))
				}
				want := []int{4, 5}
				if err := tt.delete(k, pod); name == "flushed" && !flushesFiltered(t) {
					require.Error(t, err)
					want = []int{1, 2, 3, 4, 5} // for the next way
				} else {
					require.NoError(t, err)
				}
				left, err := ct.ConntrackTableList(netlink.ConntrackTable, family)
				require.NoError(t, err)
				var ports []int
				for _, flow := range left {
					ports = append(ports, int(flow.Forward.SrcPort))
				}
				slices.Sort(ports)
				require.Equal(t, want, ports)
			})
		})
	}
}

// flushesFiltered: since Linux 6.8 a flush may have a filter.
func flushesFiltered(t *testing.T) bool {
	t.Helper()
	var name unix.Utsname
	require.NoError(t, unix.Uname(&name))
	var version, patch int
	_, err := fmt.Sscanf(unix.ByteSliceToString(name.Release[:]), "%d.%d", &version, &patch)
	require.NoError(t, err)
	return version > 6 || version == 6 && patch >= 8
}

func connection(from, to, answersFrom, answersTo netip.Addr, port uint16) *netlink.ConntrackFlow {
	tuple := func(from, to netip.Addr, fromPort, toPort uint16) netlink.IPTuple {
		return netlink.IPTuple{
			SrcIP: net.IP(from.AsSlice()), DstIP: net.IP(to.AsSlice()),
			Protocol: unix.IPPROTO_UDP, SrcPort: fromPort, DstPort: toPort,
		}
	}
	return &netlink.ConntrackFlow{
		FamilyType: uint8(family(egress.FamilyOf(from))), TimeOut: 60,
		Forward: tuple(from, to, port, 53), Reverse: tuple(answersFrom, answersTo, 53, port),
	}
}
