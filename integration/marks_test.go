package integration

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
)

// foreign is somebody else's table: its first chain marks packets early, and its
// last two see which marks they have behind everyone else, as they are forwarded
// and as they leave.
const foreign = `
table inet foreign {
	set forwarded { type ifname . ifname . mark; size 1024; flags dynamic; }
	set left { type ifname . ifname . mark; size 1024; flags dynamic; }
	chain prerouting { type filter hook prerouting priority mangle; }
	chain forward {
		type filter hook forward priority 300
		meta l4proto { tcp, udp } add @forwarded { iifname . oifname . meta mark }
	}
	chain postrouting {
		type filter hook postrouting priority 300
		meta l4proto { tcp, udp } add @left { iifname . oifname . meta mark }
	}
}
`

// mark makes the foreign table set these bits in the mark of every packet that
// matches and comes in.
func (c *cluster) mark(t *testing.T, match string, bits uint32) {
	t.Helper()
	c.command(t, "nft", fmt.Sprintf(
		"flush chain inet foreign prerouting; add rule inet foreign prerouting %s meta mark set meta mark or %d", match, bits))
}

// hop is a way through the node and the mark on it.
type hop struct {
	in, out string
	mark    uint32
}

func (h hop) String() string { return fmt.Sprintf("%s to %s: %#08x", h.in, h.out, h.mark) }

// marks returns those of all packets that passed the node during f.
func (c *cluster) marks(t *testing.T, f func()) []hop {
	t.Helper()
	c.command(t, "nft", "flush set inet foreign forwarded; flush set inet foreign left")
	f()
	forwarded := c.hops(t, "forwarded")
	require.Equal(t, forwarded, c.hops(t, "left"))
	return forwarded
}

func (c *cluster) hops(t *testing.T, set string) []hop {
	t.Helper()
	var out struct {
		Nftables []struct {
			Set struct {
				Elem []struct{ Concat [3]any }
			}
		}
	}
	require.NoError(t, json.Unmarshal([]byte(c.command(t, "nft", "-j", "list", "set", "inet", "foreign", set)), &out))
	var hops []hop
	for _, object := range out.Nftables {
		for _, e := range object.Set.Elem {
			hops = append(hops, hop{e.Concat[0].(string), e.Concat[1].(string), uint32(e.Concat[2].(float64))})
		}
	}
	slices.SortFunc(hops, func(a, b hop) int { return strings.Compare(a.String(), b.String()) })
	return hops
}

// requireMarks compares those of packets there and back during f.
func (c *cluster) requireMarks(t *testing.T, in, out string, there, back uint32, f func()) {
	t.Helper()
	require.ElementsMatch(t, []hop{{in, out, there}, {out, in, back}}, c.marks(t, f))
}

// newMarked is a cluster with another node and the foreign table, a plain and an
// annotated pod.
func newMarked(t *testing.T) (c *cluster, plain, annotated *direct) {
	t.Helper()
	return newMarkedBy(t, egressIP(nil))
}

func newMarkedBy(t *testing.T, entry object) (c *cluster, plain, annotated *direct) {
	t.Helper()
	c = newCluster(t, nettest.LabOptions{SecondDefault: true, ThirdLink: true}, "1.0.0")
	c.addOtherNode(t, nettest.PrimaryLink)
	c.load(t, foreign, "nft", "-f")
	plain = c.newDirect(t, "plain", neighbour4, neighbour6, entry)
	plain.add(t, nil)
	annotated = c.newDirect(t, "annotated", pod4, pod6, entry)
	annotated.ServeWhoAmI(t, nettest.WhoAmIPort)
	annotated.add(t, both)
	return c, plain, annotated
}

// TestForeignMarks: what others have marked keeps their bits, whatever is ours;
// and a packet of which nothing is ours is not touched at all.
func TestForeignMarks(t *testing.T) {
	t.Parallel()
	const link, others = 0x01000000, 0x0f000000
	c, plain, annotated := newMarked(t)
	for _, tt := range []struct{ foreign, plain uint32 }{
		{0, others},
		{0x42, 0x42},
		{0x80000042, 0x80000042},
		// kube-proxy's bits alone are nobody's mark, for they are matched with a mask;
		// beside others' they are.
		{0x4000, others | 0x4000},
		{0x8000, others | 0x8000},
		{0xc000, others | 0xc000},
		{0x4042, 0x4042},
	} {
		t.Run(fmt.Sprintf("%#x", tt.foreign), func(t *testing.T) {
			c.mark(t, "", tt.foreign)
			// A plain pod's packets, and what comes back. The router leads to both pods.
			c.requireMarks(t, plain.HostLink, nettest.PrimaryLink, tt.plain, tt.plain, func() {
				plain.requireSeen(t, neighbour4, neighbour6)
			})
			// Egress connections.
			c.requireMarks(t, annotated.HostLink, nettest.SecondLink, link|tt.foreign, link|tt.foreign, func() {
				annotated.requireSeen(t, egress4, egress6)
			})
			// The annotated pod's way to the cluster.
			clusters := []destination{{otherPod4, pod4}, {otherPod6, pod6}}
			c.requireMarks(t, annotated.HostLink, nettest.PrimaryLink, others|tt.foreign, link|tt.foreign, func() {
				annotated.requireReached(t, clusters)
			})
			// And from outside to it.
			c.requireMarks(t, nettest.PrimaryLink, annotated.HostLink, others|tt.foreign, others|tt.foreign, func() {
				c.requireAsks(t, c.Server, nettest.ServerIPv4, pod4)
				c.requireAsks(t, c.Server, nettest.ServerIPv6, pod6)
			})
		})
	}

	c.mark(t, "", 0)
	seen := watchLeaks(t, c, annotated)
	annotated.requireSeen(t, egress4, egress6)
	c.mark(t, "", 0x42)
	annotated.requireSeen(t, egress4, egress6)
	seen.requireNone(t)
}

// TestForeignMarkRouted: people's own rules, which match a mark without a mask,
// go on to route plain pods' packets; an annotated pod's are the link's.
func TestForeignMarkRouted(t *testing.T) {
	t.Parallel()
	c, plain, annotated := newMarked(t)
	for _, args := range []string{
		"route add default via " + nettest.ThirdGatewayIPv4 + " dev enp8s0 table 77",
		"-6 route add default via " + nettest.ThirdGatewayIPv6 + " dev enp8s0 table 77",
		"rule add fwmark 0x42 lookup 77 pref 7000",
		"-6 rule add fwmark 0x42 lookup 77 pref 7000",
	} {
		c.command(t, "ip", strings.Fields(args)...)
	}
	c.mark(t, `iifname "veth*"`, 0x42)
	third := c.Router.Capture(t, nettest.RouterThirdLink)
	seen := watchLeaks(t, c, annotated)
	plain.requireSeen(t, neighbour4, neighbour6)
	require.NotZero(t, third.Count(func(p nettest.Packet) bool { return has(p, neighbour4) && isWhoAmI(p) }))
	require.NotZero(t, third.Count(func(p nettest.Packet) bool { return has(p, neighbour6) && isWhoAmI(p) }))
	annotated.requireSeen(t, egress4, egress6)
	require.Zero(t, third.Count(func(p nettest.Packet) bool { return has(p, pod4, pod6, egress4, egress6) }))
	seen.requireNone(t)
}

// threeLinks lets a pod leave by three links, the last of which is not the lab's.
func (c *cluster) threeLinks(t *testing.T, markMask string) object {
	t.Helper()
	nettest.Connect(t, c.Node, "enp9s0", c.Router, "fourth")
	c.Node.AddAddress(t, "enp9s0", "192.168.126.10/24")
	c.Node.AddAddress(t, "enp9s0", "fd00:126::10/64")
	c.Router.AddAddress(t, "fourth", "192.168.126.1/24")
	c.Router.AddAddress(t, "fourth", "fd00:126::1/64")
	return egressIP(object{"markMask": markMask, "links": []object{{
		"name": "enp*",
		"allow": []object{{"namespaces": []string{"payments"}, "addresses": []string{
			"192.168.124.96/28", "fd00:124::90/124", "192.168.125.96/28", "fd00:125::90/124", "192.168.126.96/28", "fd00:126::90/124",
		}}},
	}, {
		"name": "enp9s0", "gateways": []string{"192.168.126.1", "fd00:126::1"},
	}}})
}

// by are the egress addresses on a lab's links.
func by(link string) (ipv4, ipv6 string) {
	net := map[string]string{nettest.SecondLink: "124", nettest.ThirdLink: "125", "enp9s0": "126"}[link]
	return "192.168." + net + ".99", "fd00:" + net + "::99"
}

// requireEgressBy attaches the pod to the link, or finds it attached, and checks
// the mark of its packets.
func (d *direct) requireEgressBy(t *testing.T, link string, mark uint32) {
	t.Helper()
	ipv4, ipv6 := by(link)
	d.add(t, address(ipv4+","+ipv6))
	d.cluster.requireMarks(t, d.HostLink, link, mark, mark, func() { d.requireSeen(t, ipv4, ipv6) })
	for _, family := range []string{"-4", "-6"} {
		require.Regexp(t, fmt.Sprintf(`5998:\s+from all fwmark %#x/0x[0-9a-f]+ lookup %d\s`, mark, 1000+d.cluster.Node.Index(t, link)),
			d.cluster.command(t, "ip", family, "rule"))
	}
}

// TestMarkOfLink: each link has a mark, the lowest that is free; all its pods
// share it, and with the last of them it is free again.
func TestMarkOfLink(t *testing.T) {
	t.Parallel()
	c := newCluster(t, nettest.LabOptions{SecondDefault: true, ThirdLink: true}, "1.0.0")
	entry := c.threeLinks(t, "0x0f000000")
	c.load(t, foreign, "nft", "-f")
	var pods []*direct
	for i := range 4 {
		pods = append(pods, c.newDirect(t, fmt.Sprint("pod", i), fmt.Sprint("10.244.1.", 10+i), fmt.Sprint("fd00:10:244::1", i), entry))
	}
	pods[0].add(t, nil)
	before := c.state(t)

	pods[0].requireEgressBy(t, nettest.SecondLink, 0x01000000)
	pods[1].requireEgressBy(t, nettest.ThirdLink, 0x02000000)
	pods[2].requireEgressBy(t, nettest.SecondLink, 0x01000000)
	pods[0].del(t)
	pods[3].requireEgressBy(t, "enp9s0", 0x03000000)
	pods[2].del(t)
	require.NotContains(t, c.command(t, "ip", "rule"), "0x1000000/")
	require.NotContains(t, c.command(t, "nft", "list", "chains"), fmt.Sprintf("out_%d ", c.Node.Index(t, nettest.SecondLink)))
	pods[3].del(t)
	pods[3].requireEgressBy(t, "enp9s0", 0x01000000)
	pods[0].requireEgressBy(t, nettest.SecondLink, 0x03000000)
	pods[1].requireEgressBy(t, nettest.ThirdLink, 0x02000000) // it has been there all the time

	// Both families of a pod, by different links.
	pods[1].del(t)
	pods[0].del(t)
	_, ipv6 := by(nettest.ThirdLink)
	pods[0].add(t, address(egress4+","+ipv6))
	require.ElementsMatch(t, []hop{
		{pods[0].HostLink, nettest.SecondLink, 0x02000000}, {nettest.SecondLink, pods[0].HostLink, 0x02000000},
		{pods[0].HostLink, nettest.ThirdLink, 0x03000000}, {nettest.ThirdLink, pods[0].HostLink, 0x03000000},
	}, c.marks(t, func() { pods[0].requireSeen(t, egress4, ipv6) }))
	pods[0].del(t)
	pods[3].del(t)
	require.Equal(t, before, withoutSeen(c.state(t)))
}

// withoutSeen is the state without what the foreign table has seen.
func withoutSeen(state string) string {
	lines := slices.Collect(strings.Lines(state))
	elements := false
	return strings.Join(slices.DeleteFunc(lines, func(line string) bool {
		elements = elements || strings.Contains(line, "elements = {") && strings.Contains(line, `"`)
		drop := elements
		elements = elements && !strings.Contains(line, "}")
		return drop
	}), "")
}

// TestMarkMaskFull: when each mark has a link, a pod for another link is refused,
// with nothing left of it; and let in when a link has given its mark back.
func TestMarkMaskFull(t *testing.T) {
	t.Parallel()
	c := newCluster(t, nettest.LabOptions{SecondDefault: true, ThirdLink: true}, "1.0.0")
	entry := c.threeLinks(t, "0x03000000") // 1 and 2; 3 is that of others
	c.load(t, foreign, "nft", "-f")
	first := c.newDirect(t, "first", "10.244.1.10", "fd00:10:244::10", entry)
	second := c.newDirect(t, "second", "10.244.1.11", "fd00:10:244::11", entry)
	third := c.newDirect(t, "third", "10.244.1.12", "fd00:10:244::12", entry)
	first.requireEgressBy(t, nettest.SecondLink, 0x01000000)
	second.requireEgressBy(t, nettest.ThirdLink, 0x02000000)

	before := c.state(t)
	ipv4, ipv6 := by("enp9s0")
	_, err := third.call(t, "ADD", address(ipv4+","+ipv6))
	require.ErrorContains(t, err, "markMask 0x3000000")
	require.ErrorContains(t, err, "enp9s0")
	require.Equal(t, before, c.state(t))
	third.del(t)
	require.Equal(t, before, c.state(t))
	first.requireEgressBy(t, nettest.SecondLink, 0x01000000)
	second.requireEgressBy(t, nettest.ThirdLink, 0x02000000)

	// By a link that has a mark there is room; and by one that takes over the mark.
	ipv4, ipv6 = "192.168.124.98", "fd00:124::98"
	third.add(t, address(ipv4+","+ipv6))
	third.requireSeen(t, ipv4, ipv6)
	third.del(t)
	first.del(t)
	third.requireEgressBy(t, "enp9s0", 0x01000000)
	second.requireEgressBy(t, nettest.ThirdLink, 0x02000000)
}

// TestMaskedMarks: bits of others that are always matched with a mask do not make a
// packet theirs, so a plain pod's skips the source rules. What is configured is so while
// there are annotated pods, and as recorded.
func TestMaskedMarks(t *testing.T) {
	t.Parallel()
	const link, others, masked = 0x01000000, 0x0f000000, 0x00030080
	c, plain, annotated := newMarkedBy(t, egressIP(object{"maskedMarks": fmt.Sprintf("%#x", masked)}))
	later := c.newDirect(t, "later", "10.244.1.12", "fd00:10:244::12", egressIP(nil))
	later.add(t, both)
	for _, tt := range []struct{ foreign, plain uint32 }{
		{0x80, others | 0x80},
		{0x30080, others | 0x30080},
		{0x34080, others | 0x34080},
		{0x40, 0x40},
		{0x30040, 0x30040},
	} {
		t.Run(fmt.Sprintf("%#x", tt.foreign), func(t *testing.T) {
			c.mark(t, "", tt.foreign)
			c.requireMarks(t, plain.HostLink, nettest.PrimaryLink, tt.plain, tt.plain, func() {
				plain.requireSeen(t, neighbour4, neighbour6)
			})
			c.requireMarks(t, annotated.HostLink, nettest.SecondLink, link|tt.foreign, link|tt.foreign, func() {
				annotated.requireSeen(t, egress4, egress6)
			})
		})
	}
	for _, d := range []*direct{annotated, later} {
		_, err := d.call(t, "CHECK", both)
		require.NoError(t, err)
	}
	before := c.state(t)
	c.command(t, "nft", "delete table inet egress_ip")
	c.command(t, filepath.Join(bin, "egress-ip"), "resync")
	require.Equal(t, before, c.state(t))
	require.Contains(t, c.command(t, "nft", "list", "chain", "inet", "egress_ip", "prerouting"), "meta mark & 0xfffc3f7f vmap @unmarked")
	require.Contains(t, c.command(t, filepath.Join(bin, "egress-ip"), "explain", pod4), "As the annotation says")
}

// TestMarkMaskChanged: while there are annotated pods, packets are on their way
// with marks of the old mask; so it stays until the last has gone.
func TestMarkMaskChanged(t *testing.T) {
	t.Parallel()
	c := newCluster(t, nettest.LabOptions{SecondDefault: true, ThirdLink: true}, "1.0.0")
	entry := c.threeLinks(t, "0x0f000000")
	c.load(t, foreign, "nft", "-f")
	first := c.newDirect(t, "first", "10.244.1.10", "fd00:10:244::10", entry)
	second := c.newDirect(t, "second", "10.244.1.11", "fd00:10:244::11", entry)
	plain := c.newDirect(t, "plain", neighbour4, neighbour6, entry)
	c.Router.AddRoute(t, nettest.Route{Dst: "10.244.1.0/24", Via: nettest.PrimaryIPv4})
	c.Router.AddRoute(t, nettest.Route{Dst: "fd00:10:244::/64", Via: nettest.PrimaryIPv6})
	first.requireEgressBy(t, nettest.SecondLink, 0x01000000)

	for _, d := range []*direct{first, second, plain} {
		d.entry["markMask"] = "0x00f00000"
	}
	second.requireEgressBy(t, nettest.ThirdLink, 0x02000000)
	first.requireEgressBy(t, nettest.SecondLink, 0x01000000)
	_, err := first.call(t, "CHECK", both)
	require.NoError(t, err)
	require.NotContains(t, c.command(t, "ip", "rule"), "/0xf00000 ")
	others := func(mark uint32) {
		t.Helper()
		plain.add(t, nil)
		c.requireMarks(t, plain.HostLink, nettest.PrimaryLink, mark, mark, func() {
			plain.requireSeen(t, neighbour4, neighbour6)
		})
	}
	others(0x0f000000)

	first.del(t)
	second.requireEgressBy(t, nettest.ThirdLink, 0x02000000)
	second.del(t)
	require.NotContains(t, c.command(t, "ip", "rule"), "fwmark")
	first.requireEgressBy(t, nettest.SecondLink, 0x00100000)
	others(0x00f00000)
	second.requireEgressBy(t, nettest.ThirdLink, 0x00200000)
}
