package integration

import (
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestWatchHeals: after each disaster the watcher makes the node whole again, by itself.
func TestWatchHeals(t *testing.T) {
	t.Parallel()
	healBy(t, func(t *testing.T, s *stricken) func(func() bool) {
		startWatcher(t, s.Node)
		return func(done func() bool) { require.Eventually(t, done, waitFor, tick) }
	})
}

// TestWatchFlap: while a link is down for two seconds its pods are refused, whatever
// the watcher does, and none of their packets leaves by another; when it is back,
// connections of before go on, and status says each time how it is.
func TestWatchFlap(t *testing.T) {
	t.Parallel()
	c := newCluster(t, nettest.LabOptions{SecondDefault: true}, "1.0.0")
	d := c.newDirect(t, "pod", "10.244.1.5", "fd00:10:244::5", egressIP(nil))
	d.add(t, both)
	c.serveRepeatedly(t)
	startWatcher(t, c.Node)
	conns := map[string]net.Conn{}
	for egress, server := range map[string]string{egress4: nettest.ServerIPv4, egress6: nettest.ServerIPv6} {
		conn := dialTCP(t, d.Namespace, "", net.JoinHostPort(server, "8081"))
		requireAnswer(t, conn, egress)
		conns[egress] = conn
	}
	c.status(t, 0)
	leaks := watchLeaks(t, c, d)

	const flap = 2 * time.Second
	second.down(t, c)
	for begin := time.Now(); time.Since(begin) < flap; {
		for _, conn := range conns {
			_, err := conn.Write([]byte("?"))
			require.NoError(t, err)
		}
		require.Zero(t, answered(d, "udp"))
	}
	out, _ := c.status(t, 1)
	require.Contains(t, out, "link down")
	second.up(t, c)
	for egress, conn := range conns {
		requireAnswer(t, conn, egress)
	}
	require.Eventually(t, func() bool {
		_, exit := c.egressIP(t, "status")
		return exit == 0
	}, waitFor, 50*time.Millisecond)
	d.requireSeen(t, egress4, egress6)
	leaks.requireNone(t)
}

// requireAnswer asks a server that answers again and again; the first answer that
// has not been read yet is this.
func requireAnswer(t *testing.T, conn net.Conn, want string) {
	t.Helper()
	require.NoError(t, conn.SetDeadline(time.Now().Add(waitFor)))
	_, err := conn.Write([]byte("?"))
	require.NoError(t, err)
	answer := make([]byte, len(want))
	_, err = io.ReadFull(conn, answer)
	require.NoError(t, err)
	require.Equal(t, want, string(answer))
}

// TestWatchCarrier: a link that is up and has no carrier counts as down. Its pods'
// packets are refused, not lost, as soon as the watcher knows; when the carrier is back
// they go, and connections of before go on.
func TestWatchCarrier(t *testing.T) {
	t.Parallel()
	c := newCluster(t, nettest.LabOptions{SecondDefault: true}, "1.0.0")
	d := c.newDirect(t, "pod", "10.244.1.5", "fd00:10:244::5", egressIP(nil))
	d.add(t, both)
	plain := c.newDirect(t, "plain", "10.244.1.6", "fd00:10:244::6", egressIP(nil))
	c.serveRepeatedly(t)
	startWatcher(t, c.Node)
	conn := dialTCP(t, d.Namespace, "", net.JoinHostPort(nettest.ServerIPv4, "8081"))
	requireAnswer(t, conn, egress4)
	before, main := c.state(t), c.command(t, "ip", "route")
	leaks := watchLeaks(t, c, d)

	c.Router.SetDown(t, nettest.RouterSecondLink)
	for family, server := range map[string]string{"-4": nettest.ServerAskIPv4, "-6": nettest.ServerAskIPv6} {
		require.Eventually(t, func() bool {
			return !strings.Contains(c.command(t, "ip", family, "route", "show", "table", c.table(t)), "dev enp7s0")
		}, waitFor, tick)
		refusals := d.Capture(t, "eth0")
		require.Eventually(t, func() bool { // the node says so once a second
			_, err := d.Ask("udp", server)
			return err != nil && refusals.Count(func(p nettest.Packet) bool {
				return p.Protocol == unix.IPPROTO_ICMP && p.ICMPType == 3 || p.Protocol == unix.IPPROTO_ICMPV6 && p.ICMPType == 1
			}) > 0
		}, waitFor, tick)
	}
	out, _ := c.status(t, 1)
	require.Contains(t, out, "no carrier")
	_, err := plain.call(t, "ADD", both)
	require.ErrorContains(t, err, "no carrier")
	require.Equal(t, main, strings.ReplaceAll(c.command(t, "ip", "route"), " linkdown", ""))

	c.Router.SetUp(t, nettest.RouterSecondLink)
	c.Router.WaitUsable(t, nettest.RouterSecondLink)
	c.Router.AddAddress(t, nettest.RouterSecondLink, nettest.SecondGatewayIPv6+"/64")
	requireAnswer(t, conn, egress4)
	require.Eventually(t, func() bool { return c.state(t) == before }, waitFor, tick)
	d.requireSeen(t, egress4, egress6)
	c.status(t, 0)
	leaks.requireNone(t)
}
