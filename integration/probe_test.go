package integration

import (
	"encoding/binary"
	"net/netip"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

const (
	probeSource     = "fe80::1234:5678:9abc"
	probeTranslated = "2603:1062:0:1:fe80:1234:5678:9abc"
	probedPod       = "fd00:10:244::5"
)

// probe is a load balancer's health probe from the link-local source, by the
// primary link, to port 8080 of an address: over TCP, and then over UDP. It returns
// the source that was seen.
func (c *cluster) probe(t *testing.T, to string) (string, error) {
	t.Helper()
	from := netip.MustParseAddr(probeSource).WithZone(nettest.RouterPrimaryLink)
	for _, network := range []string{"tcp", "udp"} {
		saw, err := c.Router.AskFrom(network, from, netip.AddrPortFrom(netip.MustParseAddr(to), nettest.WhoAmIPort).String())
		if err != nil || saw.String() != probeTranslated {
			return saw.String(), err
		}
	}
	return probeTranslated, nil
}

// newProbed is a cluster whose router has the probe's address on the primary link
// and a way to the pods, and a pod that answers on port 8080.
func newProbed(t *testing.T, entry object) (*cluster, *direct) {
	t.Helper()
	c := newCluster(t, nettest.LabOptions{}, "1.0.0")
	c.Router.AddAddress(t, nettest.RouterPrimaryLink, probeSource+"/64")
	c.Router.AddRoute(t, nettest.Route{Dst: "fd00:10:244::/64", Via: nettest.PrimaryIPv6, Link: nettest.RouterPrimaryLink})
	d := c.newDirect(t, "probed", "10.244.1.5", probedPod, entry)
	// Or nobody looks at checksums: a veth hands packets on as if theirs were right.
	for link, at := range map[string]*nettest.Namespace{
		nettest.RouterPrimaryLink: c.Router, d.HostLink: c.Node,
	} {
		c.on(t, at, "ethtool", "-K", link, "tx", "off")
	}
	for _, at := range []*nettest.Namespace{c.Node, d.Namespace} {
		c.on(t, at, "ethtool", "-K", "eth0", "tx", "off")
	}
	d.ServeWhoAmI(t, nettest.WhoAmIPort)
	c.Node.ServeWhoAmI(t, nettest.WhoAmIPort)
	return c, d
}

func probeSNAT(values object) object { return egressIP(object{"probeSNAT": values}) }

// TestProbe: without the table a probe of a pod dies in the node ("beyond
// scope"); with it pod and node answer to the link-local source.
func TestProbe(t *testing.T) {
	t.Parallel()
	c, d := newProbed(t, probeSNAT(object{"mode": "never"}))
	d.add(t, nil)
	_, err := c.probe(t, probedPod)
	require.Error(t, err)
	require.NotContains(t, c.command(t, "nft", "list", "tables"), "egress_ip_probe")

	d.entry = egressIP(nil)
	d.add(t, nil) // not annotated
	for _, to := range []string{probedPod, nettest.PrimaryIPv6} {
		saw, err := c.probe(t, to)
		require.NoError(t, err)
		require.Equal(t, probeTranslated, saw)
	}
	require.Equal(t, strings.TrimLeft(`
table ip6 egress_ip_probe {
	chain prerouting {
		type filter hook prerouting priority raw; policy accept;
		ip6 saddr != fe80::1234:5678:9abc return
		ip6 daddr ff00::/8 return
		icmpv6 type nd-router-advert return
		icmpv6 type nd-neighbor-solicit return
		icmpv6 type nd-neighbor-advert return
		icmpv6 type nd-redirect return
		iifname "eth0" ip6 saddr set 2603:1062:0:1:fe80:1234:5678:9abc counter
	}

	chain postrouting {
		type filter hook postrouting priority raw; policy accept;
		ip6 daddr 2603:1062:0:1:fe80:1234:5678:9abc tcp flags syn / syn,ack return
		ip6 daddr 2603:1062:0:1:fe80:1234:5678:9abc ct direction original return
		oifname "eth0" ip6 daddr 2603:1062:0:1:fe80:1234:5678:9abc ip6 daddr set fe80::1234:5678:9abc counter
	}
}
`, "\n"), c.command(t, "nft", "-s", "list", "table", "ip6", "egress_ip_probe"))

	// It is the node's, not a pod's: it stays.
	d.del(t)
	require.Contains(t, c.command(t, "nft", "list", "tables"), "egress_ip_probe")

	d.entry = probeSNAT(object{"mode": "never"})
	d.add(t, nil)
	require.NotContains(t, c.command(t, "nft", "list", "tables"), "egress_ip_probe")
}

// TestProbeForgedByPod: a pod that sends from the probe's source is not given the
// address that says "load balancer" to others.
func TestProbeForgedByPod(t *testing.T) {
	t.Parallel()
	c, d := newProbed(t, egressIP(nil))
	d.add(t, nil)
	d.AddAddress(t, "eth0", probeSource+"/64")
	forged := netip.MustParseAddr(probeSource).WithZone("eth0")
	saw, err := d.AskFrom("tcp", forged, netip.AddrPortFrom(netip.MustParseAddr(nettest.PrimaryIPv6), nettest.WhoAmIPort).String())
	require.NoError(t, err)
	require.Equal(t, probeSource, saw.WithZone("").String())

	// And none to another pod: the packet is not forwarded at all.
	other := c.newDirect(t, "other", "10.244.1.6", "fd00:10:244::6", egressIP(nil))
	other.ServeWhoAmI(t, nettest.WhoAmIPort)
	arrived := other.Capture(t, "eth0")
	_, err = d.AskFrom("tcp", forged, "[fd00:10:244::6]:8080")
	require.Error(t, err)
	require.Zero(t, arrived.Count(func(p nettest.Packet) bool { return p.DstPort == nettest.WhoAmIPort }))
}

// TestProbeAddressOpenedByPod: what a pod itself opens to the address that it sees probes
// come from does not reach the router, which has the link-local address behind it: TCP,
// UDP and ping, whether or not conntrack tracks it.
func TestProbeAddressOpenedByPod(t *testing.T) {
	t.Parallel()
	c, d := newProbed(t, egressIP(nil))
	d.add(t, nil)
	c.Router.ServeWhoAmI(t, nettest.WhoAmIPort)
	_, err := c.probe(t, probedPod)
	require.NoError(t, err)

	// What comes to the router for the probe's address, from whom and for what.
	arrived := c.Router.Capture(t, nettest.RouterPrimaryLink)
	fromPod := func(to string, protocol uint8) int {
		return arrived.Count(func(p nettest.Packet) bool {
			return !p.Outgoing && p.Dst.String() == to && p.Src.String() == probedPod && p.Protocol == protocol &&
				(p.DstPort == nettest.WhoAmIPort || p.ICMPType == echoRequest6)
		})
	}
	ping := exec.Command("ping", "-c", "1", "-W", "1", probeTranslated)
	require.Error(t, d.Run(ping))
	for network, protocol := range map[string]uint8{"tcp": unix.IPPROTO_TCP, "udp": unix.IPPROTO_UDP} {
		_, err := d.Ask(network, "["+probeTranslated+"]:8080")
		require.Error(t, err, network)
		_, err = c.Node.Ask(network, "["+probeTranslated+"]:8080")
		require.Error(t, err, network)
		require.Zero(t, fromPod(probeSource, protocol), network)
		require.NotZero(t, fromPod(probeTranslated, protocol), "%s: nothing has been sent", network)
	}
	require.Zero(t, fromPod(probeSource, unix.IPPROTO_ICMPV6))
	require.NotZero(t, fromPod(probeTranslated, unix.IPPROTO_ICMPV6))

	// Nor a connection of TCP that the pod prepares with a packet which says that the
	// other side opens it. What the router answers it never gets.
	c.on(t, d.Namespace, "nft", "add table ip6 deaf; add chain ip6 deaf input { type filter hook input priority 0; }; add rule ip6 deaf input ip6 saddr "+probeTranslated+" drop")
	pod := netip.AddrPortFrom(netip.MustParseAddr(probedPod), 40000)
	prober := netip.AddrPortFrom(netip.MustParseAddr(probeTranslated), nettest.WhoAmIPort)
	before := fromPod(probeTranslated, unix.IPPROTO_TCP)
	d.sendSYN(t, prober, pod)
	d.sendSYN(t, pod, prober)
	require.Eventually(t, func() bool { return fromPod(probeTranslated, unix.IPPROTO_TCP) > before }, waitFor, tick)
	require.Zero(t, fromPod(probeSource, unix.IPPROTO_TCP))
	c.on(t, d.Namespace, "nft", "delete table ip6 deaf")

	// Where somebody has conntrack not track IPv6, probes are answered as before, and a
	// connection of TCP is still no answer.
	c.command(t, "nft", "add table ip6 untracked; add chain ip6 untracked in { type filter hook prerouting priority -310; }; add rule ip6 untracked in notrack;"+
		"add chain ip6 untracked out { type filter hook output priority -310; }; add rule ip6 untracked out notrack")
	for _, to := range []string{probedPod, nettest.PrimaryIPv6} {
		_, err := c.probe(t, to)
		require.NoError(t, err)
	}
	_, err = d.Ask("tcp", "["+probeTranslated+"]:8080")
	require.Error(t, err)
	require.Zero(t, fromPod(probeSource, unix.IPPROTO_TCP))
}

const echoRequest6 = 128

// sendSYN sends the first segment of a connection of TCP to the node, by the pod's link,
// whosever addresses these are.
func (d *direct) sendSYN(t *testing.T, from, to netip.AddrPort) {
	t.Helper()
	const window = 64240
	segment := binary.BigEndian.AppendUint16(nil, from.Port())
	segment = binary.BigEndian.AppendUint16(segment, to.Port())
	segment = append(segment, 0, 0, 0, 1, 0, 0, 0, 0, 5<<4, 0x02)
	segment = binary.BigEndian.AppendUint16(segment, window)
	segment = append(segment, 0, 0, 0, 0)
	// RFC 8200 section 8.1: the checksum is also over addresses, length and protocol.
	sum := uint32(len(segment)) + unix.IPPROTO_TCP
	for _, b := range [][]byte{from.Addr().AsSlice(), to.Addr().AsSlice(), segment} {
		for i := 0; i < len(b); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(b[i:]))
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(segment[16:], ^uint16(sum))
	packet := []byte{6 << 4, 0, 0, 0, 0, byte(len(segment)), unix.IPPROTO_TCP, 64}
	packet = slices.Concat(packet, from.Addr().AsSlice(), to.Addr().AsSlice(), segment)

	at := &unix.SockaddrLinklayer{Protocol: 0xdd86, Ifindex: d.Index(t, "eth0"), Halen: 6} // ETH_P_IPV6, big-endian
	copy(at.Addr[:], d.cluster.Node.Link(t, d.HostLink).Attrs().HardwareAddr)
	var err error
	d.Do(t, func() {
		var s int
		if s, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return
		}
		defer unix.Close(s)
		err = unix.Sendto(s, packet, 0, at)
	})
	require.NoError(t, err)
}

// TestProbeRefused: also a reset, and an answer in fragments, of the pod and of the node,
// reach who probes.
func TestProbeRefused(t *testing.T) {
	t.Parallel()
	c, d := newProbed(t, egressIP(nil))
	d.add(t, nil)
	from := netip.MustParseAddr(probeSource).WithZone(nettest.RouterPrimaryLink)
	for _, to := range []string{probedPod, nettest.PrimaryIPv6} {
		_, err := c.Router.AskFrom("tcp", from, "["+to+"]:9")
		require.ErrorIs(t, err, unix.ECONNREFUSED, to)
		c.on(t, c.Router, "ping", "-c", "1", "-W", "2", "-s", "4000", "-I", probeSource, "-I", nettest.RouterPrimaryLink, to)
	}
}

// TestProbeNeighbourDiscovery: the router that has the probe's address is still
// resolved by the node, and its adverts still count, to all and to the node alone.
func TestProbeNeighbourDiscovery(t *testing.T) {
	t.Parallel()
	c, d := newProbed(t, egressIP(nil))
	d.add(t, nil)

	c.command(t, "ip", "-6", "neigh", "flush", "dev", nettest.PrimaryLink)
	_, _ = c.Node.Ask("udp", "["+probeSource+"%"+nettest.PrimaryLink+"]:8080") // nobody answers
	require.Contains(t, c.command(t, "ip", "-6", "neigh", "show", probeSource, "dev", nettest.PrimaryLink), "REACHABLE")

	c.Node.Sysctl(t, "net.ipv6.conf.eth0.accept_ra", "2") // also while forwarding
	for _, to := range []netip.Addr{netip.MustParseAddr("ff02::1"), c.Node.LinkLocal(t, nettest.PrimaryLink)} {
		c.advertise(t, to)
		require.Eventually(t, func() bool {
			return strings.Contains(c.command(t, "ip", "-6", "route", "show", "default"), "via "+probeSource+" dev eth0 proto ra")
		}, waitFor, tick, "advert to %s", to)
		c.command(t, "ip", "-6", "route", "del", "default", "via", probeSource, "dev", "eth0")
	}
}

// advertise sends a router advert from the probe's address.
func (c *cluster) advertise(t *testing.T, to netip.Addr) {
	t.Helper()
	link := uint32(c.Router.Index(t, nettest.RouterPrimaryLink))
	// RFC 4861 section 4.2: type, code, checksum (the kernel's), hop limit, flags, lifetime 1800 s, two timers.
	advert := append([]byte{134, 0, 0, 0, 64, 0}, binary.BigEndian.AppendUint16(nil, 1800)...)
	advert = append(advert, make([]byte, 8)...)
	var err error
	c.Router.Do(t, func() {
		var s int
		if s, err = unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMPV6); err != nil {
			return
		}
		defer unix.Close(s)
		for _, option := range []int{unix.IPV6_UNICAST_HOPS, unix.IPV6_MULTICAST_HOPS} {
			if err = unix.SetsockoptInt(s, unix.IPPROTO_IPV6, option, 255); err != nil {
				return
			}
		}
		from := netip.MustParseAddr(probeSource)
		if err = unix.Bind(s, &unix.SockaddrInet6{Addr: from.As16(), ZoneId: link}); err != nil {
			return
		}
		err = unix.Sendto(s, advert, 0, &unix.SockaddrInet6{Addr: to.As16(), ZoneId: link})
	})
	require.NoError(t, err)
}

// TestProbeWrites: a table that is right is not written again; a changed
// configuration, or a changed table, is one transaction.
func TestProbeWrites(t *testing.T) {
	t.Parallel()
	c, d := newProbed(t, egressIP(nil))
	generation := func() uint32 { return c.generation(t) }
	empty := generation()
	d.add(t, nil)
	require.Equal(t, empty+1, generation())
	d.add(t, nil)
	require.Equal(t, empty+1, generation())

	d.entry = probeSNAT(object{"source": "fe80::77", "translated": "2001:db8:77::77", "links": []string{"eth0", "uplink1"}})
	d.add(t, nil)
	require.Equal(t, empty+2, generation())
	table := c.command(t, "nft", "-s", "list", "table", "ip6", "egress_ip_probe")
	for _, rule := range []string{
		"ip6 saddr != fe80::77 return",
		`iifname "eth0" ip6 saddr set 2001:db8:77::77`, `iifname "uplink1" ip6 saddr set 2001:db8:77::77`,
		`oifname "eth0" ip6 daddr 2001:db8:77::77 ip6 daddr set fe80::77`, `oifname "uplink1" ip6 daddr 2001:db8:77::77 ip6 daddr set fe80::77`,
	} {
		require.Contains(t, table, rule)
	}

	c.command(t, "nft", "flush", "chain", "ip6", "egress_ip_probe", "postrouting")
	d.add(t, nil)
	require.Equal(t, table, c.command(t, "nft", "-s", "list", "table", "ip6", "egress_ip_probe"))
	require.Equal(t, empty+4, generation())

	// The table of an earlier version is replaced.
	earlier := ""
	for _, link := range []string{"eth0", "uplink1"} {
		earlier += "add rule ip6 egress_ip_probe postrouting oifname " + link + " ip6 daddr 2001:db8:77::77 ip6 daddr set fe80::77 counter;"
	}
	for name, replace := range map[string]func(){
		"ADD":    func() { d.add(t, nil) },
		"resync": func() { c.command(t, filepath.Join(bin, "egress-ip"), "resync") },
	} {
		c.command(t, "nft", "flush chain ip6 egress_ip_probe postrouting;"+earlier)
		require.NotEqual(t, table, c.command(t, "nft", "-s", "list", "table", "ip6", "egress_ip_probe"))
		replace()
		require.Equal(t, table, c.command(t, "nft", "-s", "list", "table", "ip6", "egress_ip_probe"), name)
	}
}

// TestProbeMode: when a table is put up.
func TestProbeMode(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		probeSNAT object
		prepare   func(t *testing.T, c *cluster)
		podIPv6   bool
		want      bool
	}{
		"auto, pod and uplink have IPv6": {object{}, nil, true, true},
		"auto, only the uplink has IPv6": {object{}, nil, false, true},
		"auto, somebody else's table": {object{}, func(t *testing.T, c *cluster) {
			c.command(t, "nft", "add", "table", "ip6", "azureSLBProbe")
		}, true, false},
		"always, somebody else's table": {object{"mode": "always"}, func(t *testing.T, c *cluster) {
			c.command(t, "nft", "add", "table", "ip6", "azureSLBProbe")
		}, true, true},
		"auto, no IPv6 default route": {object{}, func(t *testing.T, c *cluster) {
			c.command(t, "ip", "-6", "route", "del", "default")
		}, true, false},
		"auto, uplink without a global address": {object{"links": []string{"eth0"}}, func(t *testing.T, c *cluster) {
			c.Node.DeleteAddress(t, "eth0", nettest.PrimaryIPv6+"/64")
		}, false, false},
		"always, uplink without a global address": {object{"links": []string{"eth0"}, "mode": "always"}, func(t *testing.T, c *cluster) {
			c.Node.DeleteAddress(t, "eth0", nettest.PrimaryIPv6+"/64")
		}, false, true},
		"never": {object{"mode": "never"}, nil, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, nettest.LabOptions{}, "1.0.0")
			d := c.newDirect(t, "probed", "10.244.1.5", probedPod, probeSNAT(tt.probeSNAT))
			if !tt.podIPv6 {
				d.addresses = d.addresses[:1]
			}
			if tt.prepare != nil {
				tt.prepare(t, c)
			}
			d.add(t, nil)
			require.Equal(t, tt.want, strings.Contains(c.command(t, "nft", "list", "tables"), "egress_ip_probe"))
		})
	}
}
