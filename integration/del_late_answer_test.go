package integration

import (
	"encoding/binary"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestDelWhileAnswersArrive: a pod's processes have ended, and servers still send on connections that it had. Its kernel
// refuses what arrives, also in the course of a DEL: by the egress link, or not at all.
func TestDelWhileAnswersArrive(t *testing.T) {
	t.Parallel()
	c := newNode(t)
	c.masquerade(t)
	c.serveRepeatedly(t)
	// The answers below have no right sequence numbers.
	c.Node.Sysctl(t, "net.netfilter.nf_conntrack_tcp_be_liberal", "1")
	// What the node itself refuses, for the egress address is the node's once no connection is left, has been forwarded by nobody.
	c.on(t, c.Router, "nft", `
		add table inet late
		add counter inet late refused
		add counter inet late leaked
		add chain inet late arrive { type filter hook prerouting priority raw; }
		add rule inet late arrive tcp dport 8081 tcp flags & rst == rst iifname second ip ttl < 64 counter name refused
		add rule inet late arrive tcp dport 8081 tcp flags & rst == rst iifname second ip6 hoplimit < 64 counter name refused
		add rule inet late arrive tcp dport 8081 iifname primary ip ttl < 64 counter name leaked
		add rule inet late arrive tcp dport 8081 iifname primary ip6 hoplimit < 64 counter name leaked`)
	for range 20 {
		d := c.newDirect(t, "pod", "10.244.1.5", "fd00:10:244::5", egressIP(nil))
		d.add(t, both)
		left := c.Router.Capture(t, nettest.RouterSecondLink)
		var frames [][]byte
		for _, server := range []string{nettest.ServerIPv4, nettest.ServerIPv6} {
			frames = append(frames, c.answer(t, d, left, server))
		}
		left.Stop()
		answers := c.Router.NewSender(t, nettest.RouterSecondLink, frames)
		ended := make(chan error)
		go func() {
			_, err := d.call(t, "DEL", nil)
			ended <- err
		}()
		for sending := true; sending; {
			require.NoError(t, answers.Send(0, len(frames)))
			select {
			case err := <-ended:
				require.NoError(t, err)
				sending = false
			case <-time.After(50 * time.Microsecond):
			}
		}
		require.NotContains(t, c.on(t, c.Router, "nft", "list", "counter", "inet", "late", "refused"), "packets 0 ")
		require.Contains(t, c.on(t, c.Router, "nft", "list", "counter", "inet", "late", "leaked"), "packets 0 ")
		d.die(t)
	}
}

// answer opens a connection of a pod to the server and resets it; the result is a packet of the server's on it.
func (c *cluster) answer(t *testing.T, d *direct, left *nettest.Capture, server string) nettest.Frame {
	t.Helper()
	var conn net.Conn
	var err error
	d.Do(t, func() { conn, err = net.DialTimeout("tcp", net.JoinHostPort(server, "8081"), time.Second) })
	require.NoError(t, err)
	require.NoError(t, conn.(*net.TCPConn).SetLinger(0))
	require.NoError(t, conn.Close())
	for _, p := range left.Packets() {
		if p.Outgoing || p.Dst.String() != server || p.Protocol != unix.IPPROTO_TCP {
			continue
		}
		tcp := make([]byte, 20)
		binary.BigEndian.PutUint16(tcp, p.DstPort)
		binary.BigEndian.PutUint16(tcp[2:], p.SrcPort)
		copy(tcp[12:], []byte{0x50, 0x10}) // ACK
		return nettest.NewFrame(c.Router.Link(t, nettest.RouterSecondLink).Attrs().HardwareAddr,
			c.Node.Link(t, nettest.SecondLink).Attrs().HardwareAddr, netip.MustParseAddr(server), p.Src, unix.IPPROTO_TCP, tcp)
	}
	require.Fail(t, "the connection has not left by the link")
	return nil
}
