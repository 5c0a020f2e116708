package integration

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"testing"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// proxyPort is where the transparent proxy listens.
const proxyPort = 15001

// transparentProxy does to TCP connections that come in by these links to the server's port
// what Cilium and Calico do to plain pods': a mark that they match with a mask of their
// own, a rule that delivers what has it on the node, and a socket that takes it there.
func (c *cluster) transparentProxy(t *testing.T, links ...string) {
	t.Helper()
	c.command(t, "ip", "rule", "add", "pref", "9", "fwmark", "0x200/0xf00", "lookup", "2004")
	c.command(t, "ip", "route", "add", "local", "default", "dev", "lo", "table", "2004")
	for _, link := range links {
		c.load(t, fmt.Sprintf(`
			table inet proxy {
				chain prerouting {
					type filter hook prerouting priority mangle
					iifname %q meta nfproto ipv4 tcp dport %d meta mark set meta mark & 0xfffff0ff | 0x200 tproxy ip to :%d accept
				}
			}`, link, nettest.WhoAmIPort, proxyPort), "nft", "-f")
	}
	listen := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) (err error) {
		errControl := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_TRANSPARENT, 1) })
		if err == nil {
			err = errControl
		}
		return err
	}}
	var listener net.Listener
	var err error
	c.Node.Do(t, func() { listener, err = listen.Listen(context.Background(), "tcp4", fmt.Sprintf(":%d", proxyPort)) })
	require.NoError(t, err)
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			// What the server would say it saw, were the proxy the server.
			_, _ = conn.Write([]byte(netip.MustParseAddrPort(conn.LocalAddr().String()).Addr().Unmap().String()))
			_ = conn.Close()
		}
	}()
}

// TestTransparentProxy: connections of plain pods are delivered to a proxy on the node as
// before the first annotated pod, whatever the reverse path filter and however the pods are
// connected; and the annotated pod, which is not proxied, has its egress.
func TestTransparentProxy(t *testing.T) {
	t.Parallel()
	for _, filter := range []string{"0", "1", "2"} {
		for networks, more := range map[string]object{"cluster networks configured": nil, "no cluster networks configured": derived} {
			t.Run(fmt.Sprintf("veth, rp_filter %s, %s", filter, networks), func(t *testing.T) {
				t.Parallel()
				c := newCluster(t, nettest.LabOptions{SecondDefault: true}, "1.0.0")
				annotated := c.newDirect(t, "annotated", "10.244.1.5", "fd00:10:244::5", egressIP(more))
				plain := c.newDirect(t, "plain", "10.244.1.6", "fd00:10:244::6", egressIP(more))
				c.Node.Sysctl(t, "net.ipv4.conf.all.rp_filter", filter)
				c.transparentProxy(t, plain.HostLink)
				plain.add(t, nil)
				proxied(t, plain)
				annotated.add(t, both)
				proxied(t, plain)
				annotated.requireSeen(t, egress4, egress6)
				resync, exit := c.egressIP(t, "resync")
				require.Zero(t, exit, resync)
				proxied(t, plain)
				annotated.del(t)
				proxied(t, plain)
			})
			t.Run(fmt.Sprintf("bridge, rp_filter %s, %s", filter, networks), func(t *testing.T) {
				t.Parallel()
				c := newCluster(t, nettest.LabOptions{SecondDefault: true}, "1.0.0", bridge(t, "nftables"), egressIP(more))
				c.Node.Sysctl(t, "net.ipv4.conf.all.rp_filter", filter)
				plain := c.add(t, nil)
				c.bridgeNetfilter(t, false) // which takes the socket off the packet again
				c.transparentProxy(t, "cni0")
				proxied(t, plain)
				annotated := c.add(t, both)
				proxied(t, plain)
				annotated.del(t)
				proxied(t, plain)
			})
		}
	}
}

// proxied: the answer to a connection to the server is the proxy's.
func proxied(t *testing.T, s sandbox) {
	t.Helper()
	saw, err := s.Ask("tcp", nettest.ServerAskIPv4)
	require.NoError(t, err)
	require.Equal(t, nettest.ServerIPv4, saw.String())
}
