package integration

import (
	"bufio"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
)

// ftpHelper has conntrack read what FTP clients say, so that it expects the connections that
// servers open to them, as many firewalls do.
const ftpHelper = `
table inet ftp {
	ct helper standard { type "ftp" protocol tcp; }
	chain prerouting {
		type filter hook prerouting priority -150
		tcp dport 21 ct helper set "standard"
	}
}
`

// TestActiveFTP: the connection that an FTP server opens to an annotated pod comes by the
// egress link to the egress address, and is answered by that link, whatever the reverse path
// filter.
func TestActiveFTP(t *testing.T) {
	t.Parallel()
	for _, filter := range []string{"0", "1", "2"} {
		t.Run("rp_filter "+filter, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, nettest.LabOptions{SecondDefault: true}, "1.0.0")
			for _, conf := range []string{"all", nettest.PrimaryLink, nettest.SecondLink} {
				c.Node.Sysctl(t, "net.ipv4.conf."+conf+".rp_filter", filter)
			}
			c.load(t, ftpHelper, "nft", "-f")
			d := c.newDirect(t, "pod", "10.244.1.5", "fd00:10:244::5", egressIP(nil))
			d.add(t, both)
			primary := c.Router.Capture(t, nettest.RouterPrimaryLink)
			require.Equal(t, egress4, c.fetch(t, d.Namespace, "10.244.1.5"))
			require.Zero(t, primary.Count(func(p nettest.Packet) bool { return p.SrcPort == dataPort || p.DstPort == dataPort }))
		})
	}
}

// dataPort is the one from which a server opens connections for data.
const dataPort = 20

// fetch has a client and a server of active FTP talk, and returns the address to which the
// server has opened a connection for data, once the client has got that.
func (c *cluster) fetch(t *testing.T, client *nettest.Namespace, address string) string {
	t.Helper()
	control := make(chan string, 1)
	var listener net.Listener
	c.Server.Do(t, func() {
		var err error
		listener, err = net.Listen("tcp", net.JoinHostPort(nettest.ServerIPv4, "21"))
		require.NoError(t, err)
	})
	defer listener.Close()
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			control <- err.Error()
			return
		}
		defer conn.Close()
		// The helper looks at what begins behind the end of an earlier line.
		for reader := bufio.NewReader(conn); ; {
			line, err := reader.ReadString('\n')
			if err != nil {
				line = err.Error()
			}
			control <- line
			if err != nil || strings.HasPrefix(line, "PORT") {
				break
			}
		}
		time.Sleep(time.Second) // the connection of the command outlives that of the data
	}()

	var data net.Listener
	client.Do(t, func() {
		var err error
		data, err = net.Listen("tcp", net.JoinHostPort(address, "0"))
		require.NoError(t, err)
		conn, err := net.DialTimeout("tcp", net.JoinHostPort(nettest.ServerIPv4, "21"), waitFor)
		require.NoError(t, err)
		t.Cleanup(func() { conn.Close() })
		port := netip.MustParseAddrPort(data.Addr().String()).Port()
		_, err = fmt.Fprint(conn, "USER anonymous\r\n")
		require.NoError(t, err)
		require.Equal(t, "USER anonymous\r\n", <-control)
		_, err = fmt.Fprintf(conn, "PORT %s,%d,%d\r\n", strings.ReplaceAll(address, ".", ","), port>>8, port&0xff)
		require.NoError(t, err)
	})
	defer data.Close()

	var at [4]byte
	var high, low uint16
	line := <-control
	_, err := fmt.Sscanf(line, "PORT %d,%d,%d,%d,%d,%d", &at[0], &at[1], &at[2], &at[3], &high, &low)
	require.NoError(t, err, line)
	to := netip.AddrPortFrom(netip.AddrFrom4(at), high<<8|low)
	accepted := make(chan error, 1)
	go func() {
		conn, err := data.Accept()
		if err == nil {
			_, err = conn.Read(make([]byte, 1))
			conn.Close()
		}
		accepted <- err
	}()
	c.Server.Do(t, func() {
		dialer := net.Dialer{Timeout: waitFor, LocalAddr: &net.TCPAddr{IP: net.ParseIP(nettest.ServerIPv4), Port: dataPort}}
		conn, err := dialer.Dial("tcp", to.String())
		require.NoError(t, err)
		defer conn.Close()
		_, err = conn.Write([]byte("!"))
		require.NoError(t, err)
	})
	require.NoError(t, <-accepted)
	return to.Addr().String()
}
