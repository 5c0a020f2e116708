//go:build guest

package integration

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
)

// What kube-proxy has in its IPVS mode: Services' addresses on a dummy link, of which one pair
// is in clusterCIDRs and the other, of a load balancer, is not.
const (
	insideVIP4, insideVIP6   = "10.96.0.10", "fd00:10:244:ff::10"
	outsideVIP4, outsideVIP6 = "198.51.100.10", "2001:db8:51::10"
)

// newIPVS is a cluster in which port 80 of each Service leads to the server, and 81 to a
// plain pod, which serves.
func newIPVS(t *testing.T, plugins ...object) *cluster {
	t.Helper()
	c := newCluster(t, nettest.LabOptions{SecondDefault: true}, "1.0.0", plugins...)
	inside := c.newDirect(t, "inside", "10.244.1.77", "fd00:10:244::77", egressIP(nil))
	inside.ServeWhoAmI(t, nettest.WhoAmIPort)
	c.command(t, "modprobe", "-a", "ip_vs", "ip_vs_rr")
	c.Node.Sysctl(t, "net.ipv4.vs.conntrack", "1")
	c.command(t, "ip", "link", "add", "kube-ipvs0", "type", "dummy")
	services := ""
	for _, vip := range []string{insideVIP4, outsideVIP4, insideVIP6, outsideVIP6} {
		a := netip.MustParseAddr(vip)
		c.Node.AddAddress(t, "kube-ipvs0", netip.PrefixFrom(a, a.BitLen()).String())
		server, pod := nettest.ServerIPv4, "10.244.1.77"
		if a.Is6() {
			server, pod = nettest.ServerIPv6, "fd00:10:244::77"
		}
		for _, protocol := range []string{"-t", "-u"} {
			for port, backend := range map[uint16]string{80: server, 81: pod} {
				services += fmt.Sprintf("-A %[1]s %[2]s -s rr\n-a %[1]s %[2]s -r %[3]s -m\n",
					protocol, endpoint(vip, port), endpoint(backend, nettest.WhoAmIPort))
			}
		}
	}
	c.load(t, services, "sh", "-c", `ipvsadm -R <"$0"`)
	return c
}

// TestGuestIPVS: an annotated pod's packets to a Service whose backend is outside the cluster leave
// by the link with the egress address; those to one inside arrive with the pod's own.
func TestGuestIPVS(t *testing.T) {
	t.Parallel()
	c := newIPVS(t)
	d := c.newDirect(t, explainedID, pod4, pod6, egressIP(nil))
	plain := c.newDirect(t, "plain", "10.244.1.6", "fd00:10:244::6", egressIP(nil))
	c.Node.Sysctl(t, "net.ipv4.conf.all.rp_filter", "1")
	d.add(t, both)
	leaks := watchLeaks(t, c, d)
	for _, filter := range []string{"1", "2", "0"} {
		c.Node.Sysctl(t, "net.ipv4.conf.all.rp_filter", filter)
		for _, vip := range []string{insideVIP4, outsideVIP4} {
			require.Equal(t, egress4, d.sees(t, endpoint(vip, 80)))
			require.Equal(t, pod4, d.sees(t, endpoint(vip, 81)))
		}
	}
	for _, vip := range []string{insideVIP6, outsideVIP6} {
		require.Equal(t, egress6, d.sees(t, endpoint(vip, 80)))
		require.Equal(t, pod6, d.sees(t, endpoint(vip, 81)))
	}
	d.requireSeen(t, egress4, egress6)
	require.Equal(t, "10.244.1.6", plain.sees(t, endpoint(insideVIP4, 81)))
	for vip, says := range map[string][]string{
		insideVIP4: {"ipvs    10.96.0.10 to 203.0.113.80, backend ", "leaves by enp7s0 as " + egress4, "the packet leaves by veth1"},
		insideVIP6: {"the packet leaves by enp7s0 as " + egress6, "the packet leaves by veth1"},
	} {
		out, errs, exit := c.explain(t, "payments/pod", "--to", vip)
		require.Empty(t, errs)
		require.Zero(t, exit, out)
		for _, s := range says {
			require.Contains(t, out, s)
		}
	}
	leaks.requireNone(t)
	c.status(t, 0)

	requireNoneForgedByIPVS(t, c, &pod{Namespace: plain.Namespace}, pod4, pod6)
	out, _ := c.status(t, 0)
	require.Contains(t, out, "forged sources")
}

// TestGuestIPVSOnBridge: the same of pods on a bridge, whose source is checked by their MAC address.
func TestGuestIPVSOnBridge(t *testing.T) {
	t.Parallel()
	c := newIPVS(t, bridge(t, "nftables"), egressIP(nil))
	p, plain := c.add(t, both), c.add(t, nil)
	four, six := p.global(t)
	leaks := watchLeaks(t, c, p)
	for vip, want := range map[string]struct{ outside, inside string }{
		insideVIP4: {egress4, four.String()}, outsideVIP4: {egress4, four.String()},
		insideVIP6: {egress6, six.String()}, outsideVIP6: {egress6, six.String()},
	} {
		require.Equal(t, want.outside, p.sees(t, endpoint(vip, 80)))
		require.Equal(t, want.inside, p.sees(t, endpoint(vip, 81)))
	}
	leaks.requireNone(t)
	requireNoneForgedByIPVS(t, c, plain, four.String(), six.String())
}

// requireNoneForgedByIPVS: another pod does not get a pod's egress address by Services.
func requireNoneForgedByIPVS(t *testing.T, c *cluster, forger *pod, four, six string) {
	t.Helper()
	left := c.Router.Capture(t, nettest.RouterSecondLink)
	for _, vip := range []string{insideVIP4, outsideVIP4, insideVIP6, outsideVIP6} {
		a, source := netip.MustParseAddr(vip), netip.MustParseAddr(four)
		if a.Is6() {
			source = netip.MustParseAddr(six)
		}
		for i := range 10 {
			forger.send(t, source, 40000+i, a, 80)
		}
		// What the forger may send comes behind.
		_, err := forger.Ask("udp", endpoint(vip, 81))
		require.NoError(t, err)
	}
	require.Zero(t, left.Count(func(p nettest.Packet) bool { return p.DstPort == nettest.WhoAmIPort }))
}
