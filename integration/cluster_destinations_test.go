package integration

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
)

// The pod that most tests annotate, and another one on its node.
const (
	pod4, pod6             = "10.244.1.5", "fd00:10:244::5"
	neighbour4, neighbour6 = "10.244.1.6", "fd00:10:244::6"
)

// Another node, and a pod on it.
const (
	otherNode4, otherNode6 = "198.51.100.20", "2001:db8:100::20"
	otherPod4, otherPod6   = "10.244.2.5", "fd00:10:244:2::5"
)

// withNodes are the cluster's networks when the nodes' own are among them.
var withNodes = []string{"10.244.0.0/16", "10.96.0.0/12", "198.51.100.0/24", "fd00:10:244::/56", "2001:db8:100::/64"}

// asked is where the who-am-I server of an address is.
func asked(address string) string {
	return netip.AddrPortFrom(netip.MustParseAddr(address), nettest.WhoAmIPort).String()
}

func isIPv4(address string) bool { return netip.MustParseAddr(address).Is4() }

// addOtherNode puts another node behind the router. The way to it and to its
// pods, and from it to the node's, is by this link of the node.
func (c *cluster) addOtherNode(t *testing.T, link string) *nettest.Namespace {
	t.Helper()
	other := nettest.New(t, "other node")
	nettest.Connect(t, other, "eth0", c.Router, "nodes")
	node4, node6, router4, router6 := nettest.PrimaryIPv4, nettest.PrimaryIPv6, nettest.PrimaryGatewayIPv4, nettest.PrimaryGatewayIPv6
	if link == nettest.SecondLink {
		node4, node6, router4, router6 = nettest.SecondIPv4, nettest.SecondIPv6, nettest.SecondGatewayIPv4, nettest.SecondGatewayIPv6
	}
	for _, f := range []struct {
		node, pod, router, network, pods string // the other node's
		here, hereBy, thereBy, all       string
		bits                             int
	}{
		{otherNode4, otherPod4, "198.51.100.1", "198.51.100.0/24", "10.244.2.0/24", "10.244.1.0/24", node4, router4, "0.0.0.0/0", 24},
		{otherNode6, otherPod6, "2001:db8:100::1", "2001:db8:100::/64", "fd00:10:244:2::/64", "fd00:10:244::/64", node6, router6, "::/0", 64},
	} {
		c.Router.AddAddress(t, "nodes", fmt.Sprintf("%s/%d", f.router, f.bits))
		other.AddAddress(t, "eth0", fmt.Sprintf("%s/%d", f.node, f.bits))
		other.AddAddress(t, "lo", netip.PrefixFrom(netip.MustParseAddr(f.pod), netip.MustParseAddr(f.pod).BitLen()).String())
		other.AddRoute(t, nettest.Route{Dst: f.all, Via: f.router})
		c.Router.AddRoute(t, nettest.Route{Dst: f.pods, Via: f.node})
		c.Router.AddRoute(t, nettest.Route{Dst: f.here, Via: f.hereBy})
		c.Node.AddRoute(t, nettest.Route{Dst: f.pods, Via: f.thereBy, Link: link})
		c.Node.AddRoute(t, nettest.Route{Dst: f.network, Via: f.thereBy, Link: link})
	}
	other.ServeWhoAmI(t, nettest.WhoAmIPort)
	return other
}

// service is a port 8080 that kube-proxy gives an address.
type service struct {
	address, backend string
	masquerade       bool
}

// The Services of the tests, by what is behind them.
const (
	toNeighbour4, toNeighbour6 = "10.96.0.11", "fd00:10:96::11"
	toOtherPod4, toOtherPod6   = "10.96.0.12", "fd00:10:96::12"
	toServer4, toServer6       = "10.96.0.13", "fd00:10:96::13"
	toItself4, toItself6       = "10.96.0.14", "fd00:10:96::14"
)

var services = []service{
	{toNeighbour4, neighbour4, false}, {toNeighbour6, neighbour6, false},
	{toOtherPod4, otherPod4, false}, {toOtherPod6, otherPod6, false},
	{toServer4, nettest.ServerIPv4, false}, {toServer6, nettest.ServerIPv6, false},
	{toItself4, pod4, true}, {toItself6, pod6, true}, // a hairpin
}

// kubeProxy puts up what kube-proxy does for Services, in its nftables or
// iptables mode.
func (c *cluster) kubeProxy(t *testing.T, mode string, services ...service) {
	t.Helper()
	for _, ipv4 := range []bool{true, false} {
		family := slices.DeleteFunc(slices.Clone(services), func(s service) bool { return isIPv4(s.address) != ipv4 })
		switch {
		case mode == "nftables" && ipv4:
			c.load(t, kubeProxyNFT("ip", "ipv4_addr", family), "nft", "-f")
		case mode == "nftables":
			c.load(t, kubeProxyNFT("ip6", "ipv6_addr", family), "nft", "-f")
		case ipv4:
			c.load(t, kubeProxyIPTables(family), "iptables-restore", "--noflush")
		default:
			c.load(t, kubeProxyIPTables(family), "ip6tables-restore", "--noflush")
		}
	}
}

// load runs a program on the node with a file that holds this text.
func (c *cluster) load(t *testing.T, text, name string, args ...string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "rules")
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	c.command(t, name, append(args, file)...)
}

func kubeProxyNFT(family, addr string, services []service) string {
	var elements []string
	var chains strings.Builder
	for i, s := range services {
		for _, proto := range []string{"tcp", "udp"} {
			elements = append(elements, fmt.Sprintf("%s . %s . 8080 : goto service-%d", s.address, proto, i))
		}
		fmt.Fprintf(&chains, "chain service-%d {\n", i)
		if s.masquerade {
			chains.WriteString("jump mark-for-masquerade\n")
		}
		fmt.Fprintf(&chains, "meta l4proto { tcp, udp } dnat to %s\n}\n", asked(s.backend))
	}
	return fmt.Sprintf(`
table %[1]s kube-proxy {
	chain mark-for-masquerade { meta mark set meta mark or 0x4000; }
	%[4]s
	map service-ips { type %[2]s . inet_proto . inet_service : verdict; elements = { %[3]s }; }
	chain services { %[1]s daddr . meta l4proto . th dport vmap @service-ips; }
	chain nat-prerouting { type nat hook prerouting priority dstnat; jump services; }
	chain nat-output { type nat hook output priority -100; jump services; }
	chain masquerading {
		meta mark and 0x4000 == 0 return
		meta mark set meta mark xor 0x4000
		masquerade fully-random
	}
	chain nat-postrouting { type nat hook postrouting priority srcnat; jump masquerading; }
}
`, family, addr, strings.Join(elements, ", "), &chains)
}

func kubeProxyIPTables(services []service) string {
	var b strings.Builder
	b.WriteString(`*nat
:KUBE-SERVICES - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-POSTROUTING - [0:0]
-A PREROUTING -j KUBE-SERVICES
-A OUTPUT -j KUBE-SERVICES
-A POSTROUTING -j KUBE-POSTROUTING
-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000
-A KUBE-POSTROUTING -j MASQUERADE --random-fully
`)
	for _, s := range services {
		for _, proto := range []string{"tcp", "udp"} {
			match := fmt.Sprintf("-A KUBE-SERVICES -d %s -p %s --dport 8080 -j ", s.address, proto)
			if s.masquerade {
				b.WriteString(match + "KUBE-MARK-MASQ\n")
			}
			b.WriteString(match + "DNAT --to-destination " + asked(s.backend) + "\n")
		}
	}
	return b.String() + "COMMIT\n"
}

// watched is what the router sees of a node's packets.
type watched struct{ primary, second *nettest.Capture }

func (c *cluster) watch(t *testing.T) watched {
	t.Helper()
	return watched{c.Router.Capture(t, nettest.RouterPrimaryLink), c.Router.Capture(t, nettest.RouterSecondLink)}
}

// isWhoAmI says that the packet belongs to a question, or to its answer.
func isWhoAmI(p nettest.Packet) bool {
	return p.DstPort == nettest.WhoAmIPort || p.SrcPort == nettest.WhoAmIPort
}

// has says that an end of the packet is one of these.
func has(p nettest.Packet, addresses ...string) bool {
	return slices.ContainsFunc(addresses, func(a string) bool {
		return p.Src == netip.MustParseAddr(a) || p.Dst == netip.MustParseAddr(a)
	})
}

// requireNoLeak checks all packets so far: none of the server's by the primary
// link; by the second one only with the egress address to the server, and never
// with it to one of the cluster. There may be more egress addresses.
func (w watched) requireNoLeak(t *testing.T, more ...string) {
	t.Helper()
	server := []string{nettest.ServerIPv4, nettest.ServerIPv6}
	egress := append([]string{egress4, egress6}, more...)
	none := func(c *nettest.Capture, match func(nettest.Packet) bool) {
		t.Helper()
		require.Empty(t, slices.DeleteFunc(c.Packets(), func(p nettest.Packet) bool { return !isWhoAmI(p) || !match(p) }))
	}
	none(w.primary, func(p nettest.Packet) bool { return has(p, server...) || has(p, egress...) })
	none(w.second, func(p nettest.Packet) bool { return has(p, server...) != has(p, egress...) })
	require.NotZero(t, w.second.Count(func(p nettest.Packet) bool { return isWhoAmI(p) && has(p, server...) }))
}

// destination is an address, and the source that it sees of pod4 or pod6.
type destination struct{ address, source string }

// requireReached asks every destination over TCP and UDP.
func (d *direct) requireReached(t *testing.T, destinations []destination) {
	t.Helper()
	for _, to := range destinations {
		require.Equal(t, to.source, d.sees(t, asked(to.address)), "source at %s", to.address)
	}
}

// TestClusterDestinations: an annotated pod reaches all of the cluster, and is
// reached, as before it was annotated, also where the way to another node is
// the egress link itself; only what is outside of it sees the egress address.
func TestClusterDestinations(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		link, proxy  string
		clusterCIDRs []string
		other4       string // the source at the other node
		other6       string
	}{
		{nettest.PrimaryLink, "nftables", withNodes, pod4, pod6},
		{nettest.PrimaryLink, "iptables", withNodes, pod4, pod6},
		{nettest.PrimaryLink, "nftables", nil, pod4, pod6},
		{nettest.PrimaryLink, "iptables", nil, pod4, pod6},
		{nettest.SecondLink, "nftables", withNodes, pod4, pod6},
		{nettest.SecondLink, "iptables", withNodes, pod4, pod6},
		// Main's routes by the egress link are what that link is for.
		{nettest.SecondLink, "nftables", nil, egress4, egress6},
	} {
		name := tt.link + " " + tt.proxy
		if tt.clusterCIDRs == nil {
			name += " derived"
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, nettest.LabOptions{SecondDefault: true}, "1.0.0")
			other := c.addOtherNode(t, tt.link)
			c.kubeProxy(t, tt.proxy, services...)
			c.Node.ServeWhoAmI(t, nettest.WhoAmIPort)
			entry := egressIP(object{"clusterCIDRs": tt.clusterCIDRs})
			neighbour := c.newDirect(t, "neighbour", neighbour4, neighbour6, entry)
			neighbour.ServeWhoAmI(t, nettest.WhoAmIPort)
			neighbour.add(t, nil)
			d := c.newDirect(t, "pod", pod4, pod6, entry)
			d.ServeWhoAmI(t, nettest.WhoAmIPort)
			d.add(t, nil)

			onNode := []destination{
				{neighbour4, pod4}, {neighbour6, pod6},
				{toNeighbour4, pod4}, {toNeighbour6, pod6},
				{nettest.PrimaryIPv4, pod4}, {nettest.PrimaryIPv6, pod6},
				{nettest.SecondIPv4, pod4}, {nettest.SecondIPv6, pod6},
				{toItself4, nettest.PrimaryIPv4}, {toItself6, nettest.SecondIPv6}, // the kernel's choice
			}
			offNode := func(ipv4, ipv6 string) []destination {
				return []destination{
					{otherNode4, ipv4}, {otherNode6, ipv6},
					{otherPod4, ipv4}, {otherPod6, ipv6},
					{toOtherPod4, ipv4}, {toOtherPod6, ipv6},
				}
			}
			d.requireReached(t, onNode)
			d.requireReached(t, offNode(pod4, pod6))

			d.add(t, both)
			seen := c.watch(t)
			d.requireReached(t, onNode)
			d.requireReached(t, []destination{{egress4, pod4}, {egress6, pod6}}) // it is the node's
			if tt.other4 == pod4 {
				d.requireReached(t, offNode(tt.other4, tt.other6))
			}
			d.requireReached(t, []destination{
				{nettest.ServerIPv4, egress4}, {nettest.ServerIPv6, egress6},
				{toServer4, egress4}, {toServer6, egress6},
			})
			for pod, node := range map[string]string{pod4: nettest.PrimaryIPv4, pod6: nettest.PrimaryIPv6} {
				c.requireAsks(t, c.Node, node, pod)
				c.requireAsks(t, neighbour.Namespace, map[bool]string{true: neighbour4, false: neighbour6}[isIPv4(pod)], pod)
			}
			for _, from := range []struct{ source, pod string }{
				{otherPod4, pod4}, {otherPod6, pod6}, {otherNode4, pod4}, {otherNode6, pod6},
			} {
				c.requireAsks(t, other, from.source, from.pod)
			}
			seen.requireNoLeak(t)
			if tt.other4 != pod4 {
				d.requireReached(t, offNode(tt.other4, tt.other6))
			}

			d.add(t, nil)
			d.del(t)
		})
	}
}

// requireAsks asks the pod from this address of a namespace; the pod must see it.
func (c *cluster) requireAsks(t *testing.T, n *nettest.Namespace, source, pod string) {
	t.Helper()
	for _, network := range []string{"tcp", "udp"} {
		saw, err := n.AskFrom(network, netip.MustParseAddr(source), asked(pod))
		require.NoError(t, err)
		require.Equal(t, source, saw.String())
	}
}

// TestClusterDestinationsFlushed: while nftables is empty the routes hold: what
// is the cluster's reaches it with the pod's own address, and what is not never
// leaves by the primary link. An ADD of another pod brings the table back.
func TestClusterDestinationsFlushed(t *testing.T) {
	t.Parallel()
	c := newCluster(t, nettest.LabOptions{SecondDefault: true}, "1.0.0")
	c.addOtherNode(t, nettest.PrimaryLink)
	c.Node.ServeWhoAmI(t, nettest.WhoAmIPort)
	entry := egressIP(object{"clusterCIDRs": withNodes})
	neighbour := c.newDirect(t, "neighbour", neighbour4, neighbour6, entry)
	neighbour.ServeWhoAmI(t, nettest.WhoAmIPort)
	d := c.newDirect(t, "pod", pod4, pod6, entry)
	d.ServeWhoAmI(t, nettest.WhoAmIPort)
	d.add(t, both)
	d.requireSeen(t, egress4, egress6)
	cluster := []destination{
		{neighbour4, pod4}, {neighbour6, pod6},
		{otherPod4, pod4}, {otherPod6, pod6}, {otherNode4, pod4}, {otherNode6, pod6},
		{nettest.PrimaryIPv4, pod4}, {nettest.PrimaryIPv6, pod6},
	}
	seen := watchLeaks(t, c, d)
	d.requireSeen(t, egress4, egress6)
	seen.requireNoneFlushed(t, c)
	d.requireReached(t, cluster)

	neighbour.add(t, address("192.168.124.98,fd00:124::98"))
	d.add(t, both)
	after := c.watch(t)
	neighbour.requireSeen(t, "192.168.124.98", "fd00:124::98")
	d.requireSeen(t, egress4, egress6)
	d.requireReached(t, cluster)
	after.requireNoLeak(t, "192.168.124.98", "fd00:124::98")
}
