package integration

import (
	"net"
	"os/exec"
	"testing"
	"time"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// BenchmarkDelWithFullConntrack compares a whole DEL, with 250,000 connections of
// others in the table, with `conntrack -D -s` of the same pod address.
func BenchmarkDelWithFullConntrack(b *testing.B) {
	const connections = 250_000
	lab := nettest.NewLab(b, nettest.LabOptions{SecondDefault: true})
	c := &cluster{Lab: lab, network: "net"}
	c.forgetAfter(b)
	entry := egressIP(nil)
	stays := &direct{c.PodVeth(b, "10.244.1.6", ""), c, "stays", entry, []string{"10.244.1.6"}}
	stays.add(b, address(egress4))
	d := &direct{c.PodVeth(b, "10.244.1.5", ""), c, "pod", entry, []string{"10.244.1.5"}}
	ct, err := openConntrack(b, lab.Node)
	require.NoError(b, err)
	for i := range connections {
		require.NoError(b, ct.ConntrackCreate(netlink.ConntrackTable, unix.AF_INET, &netlink.ConntrackFlow{
			FamilyType: unix.AF_INET, TimeOut: 3600,
			Forward: netlink.IPTuple{
				SrcIP: net.IP{10, 245, byte(i >> 8), byte(i)}, DstIP: net.IP{10, 246, byte(i >> 16), 1},
				Protocol: unix.IPPROTO_UDP, SrcPort: 1000, DstPort: 53,
			},
			Reverse: netlink.IPTuple{
				SrcIP: net.IP{10, 246, byte(i >> 16), 1}, DstIP: net.IP{10, 245, byte(i >> 8), byte(i)},
				Protocol: unix.IPPROTO_UDP, SrcPort: 53, DstPort: 1000,
			},
		}))
	}
	var ours, theirs time.Duration
	for b.Loop() {
		d.add(b, address(egress4))
		begin := time.Now()
		d.del(b)
		ours += time.Since(begin)
		begin = time.Now()
		// Those that the pod has opened, and those opened to it, as DEL does; exits 1
		// where it finds none.
		for _, side := range []string{"-s", "-r"} {
			_ = lab.Node.Run(exec.Command("conntrack", "-D", side, "10.244.1.5"))
		}
		theirs += time.Since(begin)
	}
	b.ReportMetric(ours.Seconds()*1e3/float64(b.N), "ms/DEL")
	b.ReportMetric(theirs.Seconds()*1e3/float64(b.N), "ms/conntrack-D")
	b.ReportMetric(theirs.Seconds()/ours.Seconds(), "times-as-fast")
}

func openConntrack(tb testing.TB, n *nettest.Namespace) (h *netlink.Handle, err error) {
	n.Do(tb, func() { h, err = netlink.NewHandle(unix.NETLINK_NETFILTER) })
	return h, err
}
