package integration

import (
	"net"
	"net/netip"
	"testing"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
)

var linkAlone = annotations{"egress-ip.cni/link": nettest.SecondLink}

// newLinkAlone is a pod that leaves with the link's own address, which its namespace may
// use, or with one of these.
func newLinkAlone(t *testing.T, allowed ...string) (*cluster, *direct) {
	t.Helper()
	c := newCluster(t, nettest.LabOptions{SecondDefault: true}, "1.0.0")
	allow := object{"namespaces": []string{"payments"}}
	if len(allowed) > 0 {
		allow["addresses"] = allowed
	}
	d := c.newDirect(t, "pod", "10.244.1.5", "fd00:10:244::5", egressIP(object{
		"links": []object{{"name": nettest.SecondLink, "allow": []object{allow}}},
	}))
	d.add(t, linkAlone)
	d.requireSeen(t, nettest.SecondIPv4, nettest.SecondIPv6)
	return c, d
}

// readdress gives the link other addresses, as a network daemon does.
func (c *cluster) readdress(t *testing.T, ipv4, ipv6 string) {
	t.Helper()
	c.Node.DeleteAddress(t, nettest.SecondLink, nettest.SecondIPv4+"/24")
	c.Node.DeleteAddress(t, nettest.SecondLink, nettest.SecondIPv6+"/64")
	if ipv4 == "" {
		return
	}
	c.Node.AddAddress(t, nettest.SecondLink, ipv4+"/24")
	c.Node.AddAddress(t, nettest.SecondLink, ipv6+"/64")
	replaceDefaults(t, c)
}

var replaceDefaults = run("ip route replace default via 192.168.124.1 dev enp7s0 metric 200",
	"ip -6 route replace default via fd00:124::1 dev enp7s0 metric 2048")

// requireNoneFrom: nothing that is for the server comes out of the link with one of
// these addresses while f runs.
func (c *cluster) requireNoneFrom(t *testing.T, f func(), sources ...string) {
	t.Helper()
	capture := c.Router.Capture(t, nettest.RouterSecondLink)
	defer capture.Stop()
	f()
	for _, source := range sources {
		require.Zero(t, capture.Count(func(p nettest.Packet) bool {
			return !p.Outgoing && p.Src == netip.MustParseAddr(source) && (p.Dst.String() == nettest.ServerIPv4 || p.Dst.String() == nettest.ServerIPv6)
		}), source)
	}
}

// TestLinkAloneFollows: a pod that leaves with the link's own address leaves with the one
// that it has now, on connections of before, too: they end.
func TestLinkAloneFollows(t *testing.T) {
	t.Parallel()
	for name, begin := range map[string]func(*testing.T, *cluster) func(func() bool){
		"watcher": func(t *testing.T, c *cluster) func(func() bool) {
			startWatcher(t, c.Node)
			return func(done func() bool) { require.Eventually(t, done, waitFor, tick) }
		},
		"resync": func(t *testing.T, c *cluster) func(func() bool) {
			return func(func() bool) {
				c.status(t, 1)
				out, exit := c.egressIP(t, "resync")
				require.Zero(t, exit, out)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, d := newLinkAlone(t)
			c.serveRepeatedly(t)
			heal := begin(t, c)
			conn := dialTCP(t, d.Namespace, "", net.JoinHostPort(nettest.ServerIPv4, "8081"))
			requireAnswer(t, conn, nettest.SecondIPv4)
			c.readdress(t, "192.168.124.20", "fd00:124::20")
			heal(func() bool {
				saw4, err4 := d.Ask("udp", nettest.ServerAskIPv4)
				saw6, err6 := d.Ask("udp", nettest.ServerAskIPv6)
				return err4 == nil && err6 == nil && saw4.String() == "192.168.124.20" && saw6.String() == "fd00:124::20"
			})
			c.requireNoneFrom(t, func() {
				_, err := conn.Write([]byte("?"))
				require.NoError(t, err)
				d.requireSeen(t, "192.168.124.20", "fd00:124::20")
			}, nettest.SecondIPv4, nettest.SecondIPv6)
			c.status(t, 0)
			c.requireNothingToDo(t)
			_, err := d.call(t, "CHECK", linkAlone)
			require.NoError(t, err)

			// It is as if the pod had come now.
			after := c.whole(t)
			d.del(t)
			c.requireNoAttachment(t)
			d.add(t, linkAlone)
			require.Equal(t, c.whole(t), after)
		})
	}
}

// TestLinkAloneStays: an address that comes beside the one that a pod has changes
// nothing, until that one goes.
func TestLinkAloneStays(t *testing.T) {
	t.Parallel()
	c, d := newLinkAlone(t)
	c.Node.Sysctl(t, "net.ipv4.conf.all.promote_secondaries", "1")
	other := c.newDirect(t, "other", "10.244.1.6", "fd00:10:244::6", egressIP(nil))
	other.add(t, both) // egress-ip's own addresses are not the link's
	c.Node.AddAddress(t, nettest.SecondLink, "192.168.124.20/24")
	c.Node.AddAddress(t, nettest.SecondLink, "fd00:124::20/64")
	c.egressIP(t, "resync")
	c.requireNothingToDo(t)
	d.requireSeen(t, nettest.SecondIPv4, nettest.SecondIPv6)
	c.Node.DeleteAddress(t, nettest.SecondLink, nettest.SecondIPv4+"/24")
	c.Node.DeleteAddress(t, nettest.SecondLink, nettest.SecondIPv6+"/64")
	c.egressIP(t, "resync")
	d.requireSeen(t, "192.168.124.20", "fd00:124::20")
	other.requireSeen(t, egress4, egress6)
	c.requireNothingToDo(t)
}

// TestLinkAloneWithout: where the link has no address, or none that the pod may have, the
// pod is closed, and status says so. It goes when there is one again.
func TestLinkAloneWithout(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		allowed    []string
		ipv4, ipv6 string
	}{
		"no address":                     {},
		"an address that is not allowed": {[]string{nettest.SecondIPv4 + "/32", nettest.SecondIPv6 + "/128"}, "192.168.124.20", "fd00:124::20"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, d := newLinkAlone(t, tt.allowed...)
			c.readdress(t, tt.ipv4, tt.ipv6)
			c.egressIP(t, "resync")
			refused := func() { require.Zero(t, answered(d, "tcp", "udp")) }
			c.requireNoneFrom(t, refused, nettest.SecondIPv4, nettest.SecondIPv6, "192.168.124.20", "fd00:124::20")
			out, _ := c.status(t, 1)
			require.Contains(t, out, "address "+nettest.SecondIPv4)
			_, err := d.call(t, "CHECK", linkAlone)
			require.Error(t, err)
			c.requireNothingToDo(t)

			if tt.ipv4 != "" {
				c.Node.DeleteAddress(t, nettest.SecondLink, tt.ipv4+"/24")
				c.Node.DeleteAddress(t, nettest.SecondLink, tt.ipv6+"/64")
			}
			c.Node.AddAddress(t, nettest.SecondLink, nettest.SecondIPv4+"/24")
			c.Node.AddAddress(t, nettest.SecondLink, nettest.SecondIPv6+"/64")
			replaceDefaults(t, c)
			c.egressIP(t, "resync")
			d.requireSeen(t, nettest.SecondIPv4, nettest.SecondIPv6)
			c.status(t, 0)
		})
	}
}
