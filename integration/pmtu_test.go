package integration

import (
	"bytes"
	"io"
	"net"
	"net/netip"
	"os/exec"
	"syscall"
	"testing"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

const (
	farIPv4, farIPv6 = "198.18.1.80", "2001:db8:181::80"
	hopMTU           = 1400
)

// newFar is a host behind a hop that takes 1400 bytes, on the far side of the
// router. Both ends of a connection with it have links of 1500 bytes, so that
// they are told of the hop by ICMP errors alone.
func (c *cluster) newFar(t *testing.T) *nettest.Namespace {
	t.Helper()
	hop, far := nettest.New(t, "hop"), nettest.New(t, "far")
	hop.Forward(t)
	nettest.Connect(t, c.Router, "hop", hop, "router")
	nettest.Connect(t, hop, "far", far, "eth0")
	for _, f := range []struct{ router, hop, hopFar, far, length, network, everything string }{
		{"198.18.0.1", "198.18.0.2", "198.18.1.1", farIPv4, "/24", "198.18.1.0/24", "0.0.0.0/0"},
		{"2001:db8:180::1", "2001:db8:180::2", "2001:db8:181::1", farIPv6, "/64", "2001:db8:181::/64", "::/0"},
	} {
		c.Router.AddAddress(t, "hop", f.router+f.length)
		hop.AddAddress(t, "router", f.hop+f.length)
		hop.AddAddress(t, "far", f.hopFar+f.length)
		far.AddAddress(t, "eth0", f.far+f.length)
		c.Router.AddRoute(t, nettest.Route{Dst: f.network, Via: f.hop, Link: "hop"})
		hop.AddRoute(t, nettest.Route{Dst: f.everything, Via: f.router, Link: "router"})
		far.AddRoute(t, nettest.Route{Dst: f.everything, Via: f.hopFar, Link: "eth0"})
	}
	setMTU(t, c.Router, "hop", hopMTU)
	setMTU(t, hop, "router", hopMTU)
	return far
}

func setMTU(t *testing.T, n *nettest.Namespace, link string, mtu int) {
	t.Helper()
	require.NoError(t, n.Netlink().LinkSetMTU(n.Link(t, link), mtu))
}

// pathMTU is what a connected socket takes for the MTU of its path.
func pathMTU(t *testing.T, conn syscall.Conn, ipv6 bool) int {
	t.Helper()
	raw, err := conn.SyscallConn()
	require.NoError(t, err)
	var mtu int
	var optErr error
	require.NoError(t, raw.Control(func(fd uintptr) {
		if ipv6 {
			mtu, optErr = unix.GetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MTU)
		} else {
			mtu, optErr = unix.GetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU)
		}
	}))
	require.NoError(t, optErr)
	return mtu
}

// transfer sends 200 KB one way and then the other. Data that is not
// acknowledged is no answer, so all of it has passed the hop.
func transfer(t *testing.T, a, b *net.TCPConn) {
	t.Helper()
	data := bytes.Repeat([]byte("0123456789"), 20_000)
	for _, ends := range [][2]*net.TCPConn{{a, b}, {b, a}} {
		sent := make(chan error, 1)
		go func() {
			_, err := ends[0].Write(data)
			sent <- err
		}()
		got := make([]byte, len(data))
		_, err := io.ReadFull(ends[1], got)
		require.NoError(t, err)
		require.NoError(t, <-sent)
		require.True(t, bytes.Equal(data, got))
	}
}

func isTooBig(p nettest.Packet) bool {
	return p.Protocol == unix.IPPROTO_ICMP && p.ICMPType == 3 || p.Protocol == unix.IPPROTO_ICMPV6 && p.ICMPType == 2
}

// TestPathMTU: a pod's own connections, and those to it, find the MTU of their path.
func TestPathMTU(t *testing.T) {
	t.Parallel()
	for _, filter := range []string{"0", "1"} {
		t.Run("rp_filter "+filter, func(t *testing.T) {
			t.Parallel()
			c, d := newServing(t, egressIP(nil))
			far := c.newFar(t)
			c.Node.Sysctl(t, "net.ipv4.conf.all.rp_filter", filter)
			d.add(t, both)
			leaks := watchLeaks(t, c, d)
			links := c.watchAnswers(t).links
			atPod, atFar := listenTCP(t, d.Namespace, nettest.WhoAmIPort), listenTCP(t, far, 9000)
			tooBig := d.Capture(t, "eth0")
			// tells checks that the pod was told, and by which link its node was.
			tells := func(t *testing.T, pod *net.TCPConn, ipv6 bool, about, link string) {
				t.Helper()
				require.Equal(t, hopMTU, pathMTU(t, pod, ipv6))
				require.NotZero(t, tooBig.Count(func(p nettest.Packet) bool { return !p.Outgoing && isTooBig(p) }))
				for name, capture := range links {
					told := capture.Count(func(p nettest.Packet) bool { return p.Outgoing && isTooBig(p) && p.Dst.String() == about })
					require.Equal(t, name == link, told > 0, "told of %s by %s", about, name)
				}
				tooBig.Reset()
				for _, capture := range links {
					capture.Reset()
				}
				forget(t, d.Namespace)
				forget(t, far)
			}
			for _, f := range []struct{ pod, vip, node, far, egress string }{
				{servingIPv4, vipIPv4, nettest.PrimaryIPv4, farIPv4, egress4},
				{servingIPv6, vipIPv6, nettest.PrimaryIPv6, farIPv6, egress6},
			} {
				ipv6 := netip.MustParseAddr(f.pod).Is6()
				pod := dialTCP(t, d.Namespace, "", endpoint(f.far, 9000))
				other := accept(t, atFar)
				require.Equal(t, f.egress, other.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap().String())
				transfer(t, pod, other)
				require.Equal(t, hopMTU, pathMTU(t, other, ipv6))
				tells(t, pod, ipv6, f.egress, nettest.RouterSecondLink)

				for _, to := range []struct {
					address string
					port    uint16
				}{
					{f.node, localPort}, {f.node, clusterPort}, {f.vip, localPort}, {f.vip, clusterPort}, {f.pod, nettest.WhoAmIPort},
				} {
					client := dialTCP(t, far, "", endpoint(to.address, to.port))
					pod := accept(t, atPod)
					transfer(t, pod, client)
					require.Equal(t, hopMTU, pathMTU(t, client, ipv6))
					tells(t, pod, ipv6, to.address, nettest.RouterPrimaryLink)
				}
			}
			leaks.requireNoneFlushed(t, c)
		})
	}
}

// forget drops what a host has learnt about paths: it would know it for the next
// connection.
func forget(t *testing.T, n *nettest.Namespace) {
	t.Helper()
	for _, family := range []string{"-4", "-6"} {
		require.NoError(t, n.Run(exec.Command("ip", family, "route", "flush", "cache")))
	}
}

// TestPathMTUAtNode: the pod's link is the narrow one. The node then sends the
// errors: with the address that was asked, by the link on which that was.
func TestPathMTUAtNode(t *testing.T) {
	t.Parallel()
	c, d := newServing(t, egressIP(nil))
	d.add(t, both)
	setMTU(t, c.Node, d.HostLink, hopMTU)
	leaks := watchLeaks(t, c, d)
	links := c.watchAnswers(t).links
	// tell sends a packet that is too big for the pod's link to the pod.
	tell := func(t *testing.T, conn *net.UDPConn, from, link string) {
		t.Helper()
		for _, capture := range links {
			capture.Reset()
		}
		ipv6 := netip.MustParseAddr(from).Is6()
		discoverPathMTU(t, conn, ipv6)
		_, err := conn.Write(make([]byte, hopMTU))
		require.NoError(t, err)
		require.Eventually(t, func() bool { return pathMTU(t, conn, ipv6) == hopMTU }, waitFor, tick)
		for name, capture := range links {
			told := capture.Count(func(p nettest.Packet) bool { return !p.Outgoing && isTooBig(p) && p.Src.String() == from })
			require.Equal(t, name == link, told > 0, "told by %s from %s", name, from)
		}
		forget(t, c.Server)
	}
	for _, f := range []struct{ pod, vip, node, server, egress string }{
		{servingIPv4, vipIPv4, nettest.PrimaryIPv4, nettest.ServerIPv4, egress4},
		{servingIPv6, vipIPv6, nettest.PrimaryIPv6, nettest.ServerIPv6, egress6},
	} {
		pod, asked := dialUDP(t, d.Namespace, endpoint(f.server, 9000)), listenUDP(t, c.Server, f.server, 9000)
		_, err := pod.Write([]byte("?"))
		require.NoError(t, err)
		_, peer, err := asked.ReadFromUDPAddrPort(make([]byte, 1))
		require.NoError(t, err)
		require.Equal(t, f.egress, peer.Addr().Unmap().String())
		connect(t, asked, peer)
		tell(t, asked, f.egress, nettest.RouterSecondLink)

		tell(t, dialUDP(t, c.Server, endpoint(f.node, localPort)), f.node, nettest.RouterPrimaryLink)
		tell(t, dialUDP(t, c.Server, endpoint(f.node, clusterPort)), f.node, nettest.RouterPrimaryLink)
		tell(t, dialUDP(t, c.Server, endpoint(f.vip, localPort)), f.vip, nettest.RouterPrimaryLink)
		// What has no Service has no address but the node's own.
		tell(t, dialUDP(t, c.Server, endpoint(f.pod, nettest.WhoAmIPort)), f.node, nettest.RouterPrimaryLink)
	}
	leaks.requireNoneFlushed(t, c)
}

// discoverPathMTU makes a socket send nothing that may be fragmented.
func discoverPathMTU(t *testing.T, conn syscall.Conn, ipv6 bool) {
	t.Helper()
	raw, err := conn.SyscallConn()
	require.NoError(t, err)
	var optErr error
	require.NoError(t, raw.Control(func(fd uintptr) {
		if ipv6 {
			optErr = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_DO)
		} else {
			optErr = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO)
		}
	}))
	require.NoError(t, optErr)
}

// connect gives a socket its only peer.
func connect(t *testing.T, conn *net.UDPConn, peer netip.AddrPort) {
	t.Helper()
	var to unix.Sockaddr = &unix.SockaddrInet6{Addr: peer.Addr().As16(), Port: int(peer.Port())}
	if peer.Addr().Is4() {
		to = &unix.SockaddrInet4{Addr: peer.Addr().As4(), Port: int(peer.Port())}
	}
	raw, err := conn.SyscallConn()
	require.NoError(t, err)
	var connectErr error
	require.NoError(t, raw.Control(func(fd uintptr) { connectErr = unix.Connect(int(fd), to) }))
	require.NoError(t, connectErr)
}

func dialUDP(t *testing.T, n *nettest.Namespace, to string) *net.UDPConn {
	t.Helper()
	var conn *net.UDPConn
	var err error
	n.Do(t, func() { conn, err = net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.MustParseAddrPort(to))) })
	require.NoError(t, err, "to %s", to)
	return bounded(t, conn)
}
