package integration

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// waitFor and tick bound waits for what takes milliseconds on an idle machine.
const tick = 5 * time.Millisecond

var waitFor = nettest.Within(10 * time.Second)

// The pod of these tests, its Services, and where they lead that nobody serves.
const (
	servingIPv4, servingIPv6 = "10.244.1.5", "fd00:10:244::5"
	vipIPv4, vipIPv6         = "198.51.100.200", "2001:db8:51::200"

	localPort, clusterPort, closedPort = 30080, 30081, 30099 // of NodePorts and of the VIP
)

// kubeProxy is what kube-proxy's nftables mode does for Services of the serving
// pod: with externalTrafficPolicy Local on one port; Cluster, which masquerades by
// way of the mark 0x4000, on another.
const kubeProxy = `
table %[1]s kube-proxy-like {
	chain prerouting {
		type nat hook prerouting priority dstnat
		fib daddr type local jump services
		%[1]s daddr %[3]s jump services
	}
	chain services {
		meta l4proto { tcp, udp } th dport 30080 dnat to %[2]s:8080
		meta l4proto { tcp, udp } th dport 30081 meta mark set meta mark or 0x4000 dnat to %[2]s:8080
		meta l4proto { tcp, udp } th dport 30099 dnat to %[2]s:9
	}
	chain postrouting {
		type nat hook postrouting priority srcnat
		meta mark & 0x4000 == 0x4000 meta mark set meta mark xor 0x4000 masquerade
	}
}
`

// newServing is a cluster whose router leads to the pods and to the VIP by the
// primary link, and a pod with Services, that does not serve yet.
func newServing(t *testing.T, entry object) (*cluster, *direct) {
	t.Helper()
	c := newCluster(t, nettest.LabOptions{SecondDefault: true}, "1.0.0")
	for dst, via := range map[string]string{
		"10.244.1.0/24": nettest.PrimaryIPv4, vipIPv4 + "/32": nettest.PrimaryIPv4,
		"fd00:10:244::/64": nettest.PrimaryIPv6, vipIPv6 + "/128": nettest.PrimaryIPv6,
	} {
		c.Router.AddRoute(t, nettest.Route{Dst: dst, Via: via, Link: nettest.RouterPrimaryLink})
	}
	rules := fmt.Sprintf(kubeProxy, "ip", servingIPv4, vipIPv4) + fmt.Sprintf(kubeProxy, "ip6", "["+servingIPv6+"]", vipIPv6)
	file := filepath.Join(t.TempDir(), "kube-proxy.nft")
	require.NoError(t, os.WriteFile(file, []byte(rules), 0o600))
	c.command(t, "nft", "-f", file)
	return c, c.newDirect(t, "serving", servingIPv4, servingIPv6, entry)
}

// wayIn is a connection from outside to the serving pod.
type wayIn struct {
	name   string
	client *nettest.Namespace
	from   string // empty: the client's choice
	to     string
	link   string // the router's, by which it comes and is to be answered
	saw    string // as the pod sees the client; empty: as an address of the node's
}

// waysIn are all ways in to the serving pod, both families.
func (c *cluster) waysIn() []wayIn {
	var ways []wayIn
	for _, f := range []struct{ pod, vip, node, second, egress, server, primaryGateway, secondGateway string }{
		{servingIPv4, vipIPv4, nettest.PrimaryIPv4, nettest.SecondIPv4, egress4,
			nettest.ServerIPv4, nettest.PrimaryGatewayIPv4, nettest.SecondGatewayIPv4},
		{servingIPv6, vipIPv6, nettest.PrimaryIPv6, nettest.SecondIPv6, egress6,
			nettest.ServerIPv6, nettest.PrimaryGatewayIPv6, nettest.SecondGatewayIPv6},
	} {
		for _, client := range []struct {
			at         *nettest.Namespace
			from, name string
		}{{c.Server, f.server, "server"}, {c.Router, f.primaryGateway, "router"}} {
			for _, to := range []struct {
				name, address string
				port          uint16
				saw           string
			}{
				{"NodePort, Local", f.node, localPort, client.from},
				{"NodePort, Cluster", f.node, clusterPort, ""},
				{"LoadBalancer, Local", f.vip, localPort, client.from},
				{"LoadBalancer, Cluster", f.vip, clusterPort, ""},
				{"directly routed", f.pod, nettest.WhoAmIPort, client.from},
			} {
				ways = append(ways, wayIn{
					to.name + " from the " + client.name, client.at, client.from, endpoint(to.address, to.port), nettest.RouterPrimaryLink, to.saw,
				})
			}
		}
		// By the egress link, from its own network and from beyond it.
		for _, client := range []struct {
			at         *nettest.Namespace
			from, name string
		}{{c.Server, f.server, "server"}, {c.Router, f.secondGateway, "router"}} {
			for _, to := range []struct {
				name, address string
				port          uint16
				saw           string
			}{
				{"NodePort on the egress link, Local", f.second, localPort, client.from},
				{"NodePort on the egress link, Cluster", f.second, clusterPort, ""},
				{"NodePort on the egress address", f.egress, localPort, client.from},
			} {
				ways = append(ways, wayIn{to.name + " from the " + client.name, client.at, client.from, endpoint(to.address, to.port), nettest.RouterSecondLink, to.saw})
			}
		}
	}
	return ways
}

func endpoint(address string, port uint16) string {
	return netip.AddrPortFrom(netip.MustParseAddr(address), port).String()
}

// answers watches by which of the router's links a way in is answered.
type answers struct {
	links map[string]*nettest.Capture
	node  []netip.Addr
}

func (c *cluster) watchAnswers(t *testing.T) *answers {
	t.Helper()
	a := &answers{links: map[string]*nettest.Capture{}}
	for _, link := range []string{nettest.RouterPrimaryLink, nettest.RouterSecondLink} {
		a.links[link] = c.Router.Capture(t, link)
	}
	for _, link := range []string{nettest.PrimaryLink, nettest.SecondLink} {
		for _, prefix := range c.Node.Addresses(t, link) {
			a.node = append(a.node, prefix.Addr())
		}
	}
	return a
}

// require asks, over TCP and UDP, and looks where the answers leave the node.
func (a *answers) require(t *testing.T, w wayIn) {
	t.Helper()
	for _, network := range []string{"tcp", "udp"} {
		for _, capture := range a.links {
			capture.Reset()
		}
		saw, err := w.client.AskFrom(network, netip.MustParseAddr(w.from), w.to)
		require.NoError(t, err, "%s, %s %s", w.name, network, w.to)
		if w.saw != "" {
			require.Equal(t, w.saw, saw.String(), "%s, %s %s", w.name, network, w.to)
		} else {
			require.Contains(t, a.node, saw, "%s, %s %s", w.name, network, w.to)
		}
		a.requireBy(t, w, network)
	}
}

// requireBy: what answers the way in, and something does, leaves by its link.
func (a *answers) requireBy(t *testing.T, w wayIn, network string) {
	t.Helper()
	asked := netip.MustParseAddrPort(w.to)
	for link, capture := range a.links {
		count := capture.Count(func(p nettest.Packet) bool {
			return !p.Outgoing && p.Src == asked.Addr() && p.SrcPort == asked.Port() && p.Dst.String() == w.from
		})
		if link == w.link {
			require.NotZero(t, count, "%s, %s %s: answered by %s", w.name, network, w.to, link)
		} else {
			require.Zero(t, count, "%s, %s %s: answered by %s", w.name, network, w.to, link)
		}
	}
}

// TestInbound: connections from outside to an annotated pod are answered the way
// they came; its own leave by the egress link all the same.
func TestInbound(t *testing.T) {
	t.Parallel()
	c, d := newServing(t, egressIP(nil))
	d.ServeWhoAmI(t, nettest.WhoAmIPort)
	d.add(t, both)
	leaks := watchLeaks(t, c, d)
	answers := c.watchAnswers(t)
	for _, w := range c.waysIn() {
		answers.require(t, w)
		if w.link == nettest.RouterPrimaryLink {
			d.requireSeen(t, egress4, egress6)
		}
	}
	leaks.requireNoneFlushed(t, c)
}

// TestInboundBothWays: connections of both directions that stand at the same time
// keep to their links, packet for packet.
func TestInboundBothWays(t *testing.T) {
	t.Parallel()
	c, d := newServing(t, egressIP(nil))
	d.add(t, both)
	leaks := watchLeaks(t, c, d)
	answers := c.watchAnswers(t)
	type conversation struct {
		w             wayIn
		inside, other net.Conn
	}
	// The pod listens where its Services lead, the server where the pod asks.
	atPod, atServer := listenTCP(t, d.Namespace, nettest.WhoAmIPort), listenTCP(t, c.Server, 9000)
	var inbound, outbound []conversation
	for _, w := range c.waysIn() {
		client := dialTCP(t, w.client, w.from, w.to)
		inbound = append(inbound, conversation{w, accept(t, atPod), client})
	}
	for server, want := range map[string]string{nettest.ServerIPv4: egress4, nettest.ServerIPv6: egress6} {
		inside := dialTCP(t, d.Namespace, "", endpoint(server, 9000))
		conn := accept(t, atServer)
		require.Equal(t, want, conn.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap().String())
		outbound = append(outbound, conversation{inside: inside, other: conn})
	}
	for range 3 {
		for _, conv := range inbound {
			for _, capture := range answers.links {
				capture.Reset()
			}
			say(t, conv.inside, conv.other)
			answers.requireBy(t, conv.w, "tcp")
			say(t, conv.other, conv.inside)
		}
		for _, conv := range outbound {
			say(t, conv.inside, conv.other)
			say(t, conv.other, conv.inside)
		}
	}
	leaks.requireNoneFlushed(t, c)
}

// listenTCP listens on a port of both families.
func listenTCP(t *testing.T, n *nettest.Namespace, port uint16) *net.TCPListener {
	t.Helper()
	var listener *net.TCPListener
	var err error
	n.Do(t, func() { listener, err = net.ListenTCP("tcp", &net.TCPAddr{Port: int(port)}) })
	require.NoError(t, err)
	t.Cleanup(func() { listener.Close() })
	return listener
}

// accept waits for a connection; all that is done with it is bounded in time.
func accept(t *testing.T, listener *net.TCPListener) *net.TCPConn {
	t.Helper()
	require.NoError(t, listener.SetDeadline(time.Now().Add(waitFor)))
	conn, err := listener.AcceptTCP()
	require.NoError(t, err)
	return bounded(t, conn)
}

func dialTCP(t *testing.T, n *nettest.Namespace, from, to string) *net.TCPConn {
	t.Helper()
	dialer := net.Dialer{Timeout: waitFor}
	if from != "" {
		dialer.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(from), 0))
	}
	var conn net.Conn
	var err error
	n.Do(t, func() { conn, err = dialer.Dial("tcp", to) })
	require.NoError(t, err, "from %s to %s", from, to)
	return bounded(t, conn.(*net.TCPConn))
}

func bounded[C net.Conn](t *testing.T, conn C) C {
	t.Helper()
	t.Cleanup(func() { conn.Close() })
	require.NoError(t, conn.SetDeadline(time.Now().Add(3*waitFor)))
	return conn
}

// say sends a word from one end of a connection and reads it at the other.
func say(t *testing.T, from, to net.Conn) {
	t.Helper()
	_, err := from.Write([]byte("word"))
	require.NoError(t, err)
	word := make([]byte, 4)
	_, err = to.Read(word)
	require.NoError(t, err)
	require.Equal(t, "word", string(word))
}

// TestInboundICMP: ICMP errors about a connection arrive at its other end, and
// leave by its link, whichever end sends them and whichever has opened it.
func TestInboundICMP(t *testing.T) {
	t.Parallel()
	for _, filter := range []string{"0", "1"} {
		t.Run("rp_filter "+filter, func(t *testing.T) {
			t.Parallel()
			c, d := newServing(t, egressIP(nil))
			c.Node.Sysctl(t, "net.ipv4.conf.all.rp_filter", filter)
			d.add(t, both)
			leaks := watchLeaks(t, c, d)
			links := c.watchAnswers(t).links
			unreachableBy := func(link, from string) int {
				return links[link].Count(func(p nettest.Packet) bool {
					return !p.Outgoing && p.Src.String() == from && isUnreachable(p)
				})
			}
			for _, f := range []struct{ pod, vip, node, server, egress string }{
				{servingIPv4, vipIPv4, nettest.PrimaryIPv4, nettest.ServerIPv4, egress4},
				{servingIPv6, vipIPv6, nettest.PrimaryIPv6, nettest.ServerIPv6, egress6},
			} {
				// The server's, about what the pod has opened.
				requireRefused(t, d.Namespace, endpoint(f.server, 9))

				// The pod's, about what it has opened: the answer comes too late.
				asker, asked := listenUDP(t, d.Namespace, f.pod, 0), listenUDP(t, c.Server, f.server, 9000)
				_, err := asker.WriteToUDPAddrPort([]byte("?"), netip.MustParseAddrPort(endpoint(f.server, 9000)))
				require.NoError(t, err)
				question := make([]byte, 1)
				_, peer, err := asked.ReadFromUDPAddrPort(question)
				require.NoError(t, err)
				require.Equal(t, f.egress, peer.Addr().Unmap().String())
				require.NoError(t, asker.Close())
				require.Eventually(t, func() bool {
					// Again: a process that is being forked elsewhere holds the socket open until it execs.
					_, err := asked.WriteToUDPAddrPort([]byte("!"), peer)
					return err == nil && unreachableBy(nettest.RouterSecondLink, f.egress) > 0
				}, waitFor, tick)

				// The pod's, about what others have opened.
				for _, to := range []string{endpoint(f.node, closedPort), endpoint(f.vip, closedPort), endpoint(f.pod, 9)} {
					requireRefused(t, c.Server, to)
					by := netip.MustParseAddrPort(to).Addr().String()
					require.NotZero(t, unreachableBy(nettest.RouterPrimaryLink, by))
					require.Zero(t, unreachableBy(nettest.RouterSecondLink, by))
				}
				require.Zero(t, unreachableBy(nettest.RouterPrimaryLink, f.egress))
			}
			leaks.requireNoneFlushed(t, c)
		})
	}
}

// requireRefused asks until somebody says that nobody serves there: the kernel
// limits how often it does.
func requireRefused(t *testing.T, n *nettest.Namespace, to string) {
	t.Helper()
	require.Eventually(t, func() bool {
		_, err := n.Ask("udp", to)
		return errors.Is(err, syscall.ECONNREFUSED)
	}, waitFor, tick, to)
}

func isUnreachable(p nettest.Packet) bool {
	return p.Protocol == unix.IPPROTO_ICMP && p.ICMPType == 3 || p.Protocol == unix.IPPROTO_ICMPV6 && p.ICMPType == 1
}

// listenUDP is a socket on an address; port 0 is any.
func listenUDP(t *testing.T, n *nettest.Namespace, address string, port uint16) *net.UDPConn {
	t.Helper()
	var conn *net.UDPConn
	var err error
	n.Do(t, func() {
		conn, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(address), port)))
	})
	require.NoError(t, err)
	return bounded(t, conn)
}
