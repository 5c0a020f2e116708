package integration

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Another pair of egress addresses that egressIP allows.
const other4, other6 = "192.168.124.100", "fd00:124::9a"

var others = address(other4 + "," + other6)

// noProbe is egressIP without the probe table, which stays when pods go and would
// stand between "before" and "after".
var noProbe = egressIP(object{"probeSNAT": object{"mode": "never"}})

// newNode is a cluster for direct calls.
func newNode(t testing.TB) *cluster {
	t.Helper()
	return newCluster(t, nettest.LabOptions{SecondDefault: true}, "1.0.0")
}

// masquerade does what the main plugin of most clusters does: a pod that leaves by
// any link does so with the link's own address.
func (c *cluster) masquerade(t *testing.T) {
	t.Helper()
	c.command(t, "nft", masquerading)
}

// masquerading is what nft does for it.
const masquerading = `
	add table inet main
	add chain inet main postrouting { type nat hook postrouting priority srcnat; }
	add rule inet main postrouting ip saddr 10.244.0.0/16 ip daddr != 10.244.0.0/16 masquerade
	add rule inet main postrouting ip6 saddr fd00:10:244::/64 ip6 daddr != fd00:10:244::/64 masquerade`

// bareDel is what is left of a DEL when everything else is lost.
func (c *cluster) bareDel(containerID string) error {
	_, err := c.plugin(call{command: "DEL", containerID: containerID})
	return err
}

// die deletes the pod's link, as when its sandbox goes and no DEL comes.
func (d *direct) die(t *testing.T) {
	t.Helper()
	d.cluster.Node.DeleteLink(t, d.HostLink)
}

// without drops the lines that name a link.
func without(state, link string) string {
	lines := slices.DeleteFunc(strings.Split(state, "\n"), func(l string) bool { return strings.Contains(l, link) })
	return strings.Join(lines, "\n")
}

// askFrom asks the who-am-I server from a port, so that a second call has the same
// 5-tuple.
func askFrom(t *testing.T, n *nettest.Namespace, network string, port int, server string) string {
	t.Helper()
	dialer := net.Dialer{Timeout: nettest.Within(time.Second), LocalAddr: &net.UDPAddr{Port: port}}
	if network == "tcp" {
		dialer.LocalAddr = &net.TCPAddr{Port: port}
	}
	var conn net.Conn
	var err error
	// A process that another test forks holds the last call's socket until it execs.
	for deadline := time.Now().Add(nettest.Within(time.Second)); conn == nil && time.Now().Before(deadline); {
		n.Do(t, func() { conn, err = dialer.Dial(network, server) })
		if !errors.Is(err, unix.EADDRINUSE) {
			break
		}
		time.Sleep(time.Millisecond)
	}
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.SetDeadline(time.Now().Add(nettest.Within(time.Second))))
	if network == "udp" {
		_, err = conn.Write([]byte("?"))
		require.NoError(t, err)
	}
	var answer []byte
	if network == "tcp" {
		// To the end: the side that closes first keeps the port for a minute.
		answer, err = io.ReadAll(conn)
	} else {
		answer = make([]byte, 64)
		var length int
		length, err = conn.Read(answer)
		answer = answer[:length]
	}
	require.NoError(t, err, "%s %s from port %d", network, server, port)
	return string(answer)
}

// TestDelInput: DEL reads nothing but the record, so nothing that a runtime leaves
// out or gets wrong keeps it from its work.
func TestDelInput(t *testing.T) {
	t.Parallel()
	c := newNode(t)
	d := c.newDirect(t, "pod", "10.244.1.5", "fd00:10:244::5", noProbe)
	whole := request(t, noProbe, both, d.addresses...)
	with := func(more object) string { // more than, or instead of, the keys of a DEL without prevResult
		stdin := object{"cniVersion": "1.1.0", "name": "net", "prevResult": nil}
		for k, v := range more {
			stdin[k] = v
		}
		return request(t, stdin, nil)
	}
	before := c.state(t)
	for _, tt := range []struct {
		name string
		call call
	}{
		{"everything there", call{netns: d.Path(), stdin: whole}},
		{"no namespace", call{stdin: whole}},
		{"namespace that has gone", call{netns: "/var/run/netns/gone", stdin: whole}},
		{"the node's own namespace", call{netns: c.Node.Path(), stdin: whole}},
		{"no prevResult", call{netns: d.Path(), stdin: with(egressIP(nil))}},
		{"no links", call{stdin: with(nil)}},
		{"empty object", call{stdin: "{}"}},
		{"nothing", call{stdin: ""}},
		{"null", call{stdin: "null"}},
		{"garbage", call{stdin: "\x00}{"}},
		{"cut off", call{stdin: whole[:len(whole)/2]}},
		{"longer than a pipe holds", call{stdin: with(object{"args": strings.Repeat("x", 1<<21)})}},
		{"misspelt key", call{stdin: with(object{"rulePriorty": 6000})}},
		{"another priority and table than at ADD", call{stdin: with(egressIP(object{"rulePriority": 7000, "tableBase": 7000}))}},
		{"unsupported cniVersion", call{stdin: with(object{"cniVersion": "9.9.9"})}},
		{"no cniVersion, which means 0.1.0", call{stdin: with(object{"cniVersion": ""})}},
		{"another network's name", call{stdin: with(object{"name": "other"})}},
		{"prevResult that is none", call{stdin: with(object{"prevResult": []int{1}})}},
		{"annotation that cannot be honoured", call{stdin: request(t, noProbe, address("nonsense"), d.addresses...)}},
		{"CNI_ARGS that are none", call{stdin: whole, args: ";=;K8S_POD_NAMESPACE"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d.add(t, both)
			require.NotEqual(t, before, c.state(t))
			tt.call.command, tt.call.containerID = "DEL", d.id
			for range 2 { // a runtime repeats it
				out, err := c.plugin(tt.call)
				require.NoError(t, err)
				require.Empty(t, out)
				require.Equal(t, before, c.state(t))
			}
		})
	}
}

// TestDelAfterWipe: others remove what egress-ip has put up, all of it or a part;
// DEL takes away the rest.
func TestDelAfterWipe(t *testing.T) {
	t.Parallel()
	c := newNode(t)
	d := c.newDirect(t, "pod", "10.244.1.5", "fd00:10:244::5", noProbe)
	table := fmt.Sprint(1000 + c.Node.Index(t, nettest.SecondLink))
	before := c.state(t)
	for _, wipe := range []string{
		"nft flush ruleset",
		"nft flush table inet egress_ip",
		"nft delete table inet egress_ip",
		"nft flush map inet egress_ip snat4",
		"ip rule del from 10.244.1.5",
		"ip -6 rule del from fd00:10:244::5",
		"ip route flush table " + table,
		"ip -6 route flush table " + table,
		"ip address del " + egress4 + "/32 dev " + nettest.SecondLink,
		"ip address del " + egress6 + "/128 dev " + nettest.SecondLink,
	} {
		t.Run(wipe, func(t *testing.T) {
			d.add(t, both)
			stood := c.state(t)
			args := strings.Fields(wipe)
			c.command(t, args[0], args[1:]...)
			require.NotEqual(t, stood, c.state(t))
			require.NoError(t, c.bareDel(d.id))
			require.Equal(t, before, c.state(t))
		})
	}
	t.Run("all of it", func(t *testing.T) {
		d.add(t, both)
		for _, wipe := range []string{
			"nft flush ruleset",
			"ip rule del from 10.244.1.5", "ip -6 rule del from fd00:10:244::5",
			"ip route flush table " + table, "ip -6 route flush table " + table,
			"ip address del " + egress4 + "/32 dev " + nettest.SecondLink,
			"ip address del " + egress6 + "/128 dev " + nettest.SecondLink,
		} {
			args := strings.Fields(wipe)
			c.command(t, args[0], args[1:]...)
		}
		require.NoError(t, c.bareDel(d.id))
		require.Equal(t, before, c.state(t))
	})
}

// TestDelWithoutLink: the link has gone, or is down, when DEL comes.
func TestDelWithoutLink(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		lose func(*cluster, *testing.T)
	}{
		{"deleted", func(c *cluster, t *testing.T) { c.Node.DeleteLink(t, nettest.SecondLink) }},
		{"down", func(c *cluster, t *testing.T) { c.Node.SetDown(t, nettest.SecondLink) }},
		{"renamed", func(c *cluster, t *testing.T) {
			c.Node.SetDown(t, nettest.SecondLink)
			c.command(t, "ip", "link", "set", nettest.SecondLink, "name", "was-"+nettest.SecondLink)
			c.Node.SetUp(t, "was-"+nettest.SecondLink)
		}},
		{"made anew", func(c *cluster, t *testing.T) {
			c.Node.DeleteLink(t, nettest.SecondLink)
			nettest.Connect(t, c.Node, nettest.SecondLink, c.Router, nettest.RouterSecondLink)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := newNode(t)
			d := c.newDirect(t, "pod", "10.244.1.5", "fd00:10:244::5", noProbe)
			before := without(c.state(t), nettest.SecondLink)
			d.add(t, both)
			tt.lose(c, t)
			require.NoError(t, c.bareDel(d.id))
			require.Equal(t, before, without(c.state(t), nettest.SecondLink))
			require.NotContains(t, c.command(t, "ip", "address"), egress4)
			require.NoError(t, c.bareDel(d.id))
		})
	}
}

// TestDelStranger: of a container that egress-ip has never seen there is nothing
// to remove, whatever else stands.
func TestDelStranger(t *testing.T) {
	t.Parallel()
	c := newNode(t)
	plain := c.newDirect(t, "plain", "10.244.1.6", "fd00:10:244::6", noProbe)
	d := c.newDirect(t, "pod", "10.244.1.5", "fd00:10:244::5", noProbe)
	strangers := []string{"stranger", "po", "pod-", "pod.json", "p" + strings.Repeat("o", 300)}
	before := c.state(t)
	plain.add(t, nil)
	for _, id := range append(strangers, plain.id) {
		require.NoError(t, c.bareDel(id))
	}
	require.Equal(t, before, c.state(t))

	d.add(t, both)
	stands := c.state(t)
	for _, id := range append(strangers, plain.id) {
		require.NoError(t, c.bareDel(id))
		// Even with the other's stdin: what counts is the container.
		_, err := c.plugin(call{command: "DEL", containerID: id, stdin: request(t, noProbe, both, d.addresses...)})
		require.NoError(t, err)
	}
	require.Equal(t, stands, c.state(t))
	d.requireSeen(t, egress4, egress6)
	d.del(t)
	require.Equal(t, before, c.state(t))
}

// TestLateDel: a pod dies without a DEL, its address goes to the next pod, and
// then the DEL comes. The next pod keeps its path, and its running connections.
func TestLateDel(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name         string
		ipv4, ipv6   string // of the next pod
		next         annotations
		seen4, seen6 string
	}{
		{"same egress address", "10.244.1.5", "fd00:10:244::5", both, egress4, egress6},
		{"another egress address", "10.244.1.5", "fd00:10:244::5", others, other4, other6},
		{"IPv4 reused, same egress address", "10.244.1.5", "fd00:10:244::6", both, egress4, egress6},
		{"IPv4 reused, another egress address", "10.244.1.5", "fd00:10:244::6", others, other4, other6},
		{"IPv6 reused, another egress address", "10.244.1.6", "fd00:10:244::5", others, other4, other6},
		{"one family annotated", "10.244.1.5", "fd00:10:244::5", address(other4), other4, nettest.PrimaryIPv6},
		{"plain", "10.244.1.5", "fd00:10:244::5", nil, nettest.PrimaryIPv4, nettest.PrimaryIPv6},
		{"plain, IPv4 reused", "10.244.1.5", "fd00:10:244::6", nil, nettest.PrimaryIPv4, nettest.PrimaryIPv6},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := newNode(t)
			c.masquerade(t)
			dead := c.newDirect(t, "dead", "10.244.1.5", "fd00:10:244::5", noProbe)
			before := without(c.state(t), "veth")
			dead.add(t, both)
			dead.requireSeen(t, egress4, egress6)
			for _, network := range []string{"udp", "tcp"} {
				require.Equal(t, egress4, askFrom(t, dead.Namespace, network, 5000, nettest.ServerAskIPv4))
				require.Equal(t, egress6, askFrom(t, dead.Namespace, network, 5000, nettest.ServerAskIPv6))
			}
			dead.die(t)

			next := c.newDirect(t, "next", tt.ipv4, tt.ipv6, noProbe)
			next.add(t, tt.next)
			requireWhole := func() {
				t.Helper()
				next.requireSeen(t, tt.seen4, tt.seen6)
				for _, network := range []string{"udp", "tcp"} {
					require.Equal(t, tt.seen4, askFrom(t, next.Namespace, network, 5000, nettest.ServerAskIPv4))
					require.Equal(t, tt.seen6, askFrom(t, next.Namespace, network, 5000, nettest.ServerAskIPv6))
				}
				_, err := next.call(t, "CHECK", tt.next)
				require.NoError(t, err)
			}
			requireWhole()
			connections := c.connections(t, tt.ipv4, tt.ipv6)
			require.NotEmpty(t, connections)
			// What nobody has taken over stays the dead pod's until its DEL.
			kept := tt.ipv4 != "10.244.1.5" || tt.ipv6 != "fd00:10:244::5"
			require.Equal(t, kept, slices.Contains(c.attachments(t), dead.id))
			if kept {
				_, err := dead.call(t, "CHECK", both) // of what is still recorded
				require.NoError(t, err)
			}

			require.NoError(t, c.bareDel(dead.id))
			require.Subset(t, c.connections(t, tt.ipv4, tt.ipv6), connections)
			requireWhole()
			require.NotContains(t, strings.Join(c.recorded(t), "\n"), dead.id)

			next.del(t)
			require.Equal(t, before, without(c.state(t), "veth"))
		})
	}
}

// TestAddressAnswers: the kernel answers for a new IPv6 address a moment after it
// has taken it; ADD waits for that, or the pod's first packets would wait a second
// for their answers.
func TestAddressAnswers(t *testing.T) {
	t.Parallel()
	c := newNode(t)
	d := c.newDirect(t, "pod", "10.244.1.5", "fd00:10:244::5", noProbe)
	for range 20 {
		d.add(t, address(egress6))
		routes, err := c.Node.Netlink().RouteListFiltered(unix.AF_INET6, &netlink.Route{
			Table: unix.RT_TABLE_LOCAL, Dst: &net.IPNet{IP: net.ParseIP(egress6), Mask: net.CIDRMask(128, 128)},
		}, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_DST)
		require.NoError(t, err)
		require.NotEmpty(t, routes)
		d.del(t)
	}
}

// TestPlainAfterDead: a plain pod gets the address of an annotated one that died,
// and no DEL ever comes.
func TestPlainAfterDead(t *testing.T) {
	t.Parallel()
	c := newNode(t)
	c.masquerade(t)
	dead := c.newDirect(t, "dead", "10.244.1.5", "fd00:10:244::5", noProbe)
	before := without(c.state(t), "veth")
	dead.add(t, both)
	dead.die(t)
	plain := c.newDirect(t, "plain", "10.244.1.5", "fd00:10:244::5", noProbe)
	plain.add(t, nil)
	plain.requireSeen(t, nettest.PrimaryIPv4, nettest.PrimaryIPv6)
	require.Equal(t, before, without(c.state(t), "veth"))
}

// TestAddAgain: the same ADD changes nothing, not even a connection's translation;
// another one moves the pod, and leaves nothing of the first.
func TestAddAgain(t *testing.T) {
	t.Parallel()
	c := newNode(t)
	c.masquerade(t)
	d := c.newDirect(t, "pod", "10.244.1.5", "fd00:10:244::5", noProbe)
	before := c.state(t)
	d.add(t, both)
	d.requireSeen(t, egress4, egress6)
	stands, connections := c.state(t), c.connections(t, d.addresses...)
	d.add(t, both)
	require.Equal(t, stands, c.state(t))
	require.Subset(t, c.connections(t, d.addresses...), connections)

	d.add(t, others)
	d.requireSeen(t, other4, other6)
	require.NotContains(t, c.state(t), egress4)
	require.NotContains(t, c.state(t), egress6)
	require.Equal(t, strings.Count(stands, "\n"), strings.Count(c.state(t), "\n"))
	_, err := d.call(t, "CHECK", others)
	require.NoError(t, err)

	d.add(t, address(egress4))
	d.requireSeen(t, egress4, nettest.PrimaryIPv6)
	require.NotContains(t, c.state(t), other4)
	require.NotContains(t, c.state(t), other6)

	d.entry = egressIP(object{"probeSNAT": object{"mode": "never"}, "rulePriority": 7000, "tableBase": 7000})
	d.add(t, both)
	d.requireSeen(t, egress4, egress6)
	require.NotContains(t, c.command(t, "ip", "rule"), "6000:")

	d.entry = noProbe
	d.add(t, both)
	require.Equal(t, stands, c.state(t))
	d.del(t)
	require.Equal(t, before, c.state(t))
}

// TestSharedAddress: pods that share an egress address, and one that has another:
// each keeps what it needs, in whatever order they go.
func TestSharedAddress(t *testing.T) {
	t.Parallel()
	c := newNode(t)
	pods := []*direct{
		c.newDirect(t, "first", "10.244.1.5", "fd00:10:244::5", noProbe),
		c.newDirect(t, "second", "10.244.1.6", "fd00:10:244::6", noProbe),
		c.newDirect(t, "apart", "10.244.1.7", "fd00:10:244::7", noProbe),
	}
	wants := []annotations{both, both, others}
	seen4, seen6 := []string{egress4, egress4, other4}, []string{egress6, egress6, other6}
	before := c.state(t)
	for _, order := range [][]int{{0, 1, 2}, {1, 0, 2}, {2, 0, 1}, {0, 2, 1}} {
		for i, d := range pods {
			d.add(t, wants[i])
		}
		for n := range order {
			for _, i := range order[n:] {
				pods[i].requireSeen(t, seen4[i], seen6[i])
				_, err := pods[i].call(t, "CHECK", wants[i])
				require.NoError(t, err)
			}
			pods[order[n]].del(t)
			on := c.command(t, "ip", "address", "show", nettest.SecondLink)
			for _, i := range order[n+1:] {
				require.Contains(t, on, seen4[i]+"/32")
				require.Contains(t, on, seen6[i]+"/128")
			}
			if !slices.ContainsFunc(order[n+1:], func(i int) bool { return seen4[i] == seen4[order[n]] }) {
				require.NotContains(t, on, seen4[order[n]])
				require.NotContains(t, on, seen6[order[n]])
			}
		}
		require.Equal(t, before, c.state(t))
	}
}

// TestAdminsAddress: an address that was on the link before stays when its last
// pod has gone, whatever its prefix length.
func TestAdminsAddress(t *testing.T) {
	t.Parallel()
	for _, lengths := range [][2]string{{"/24", "/64"}, {"/32", "/128"}} {
		t.Run(lengths[0], func(t *testing.T) {
			t.Parallel()
			c := newNode(t)
			c.Node.AddAddress(t, nettest.SecondLink, egress4+lengths[0])
			c.Node.AddAddress(t, nettest.SecondLink, egress6+lengths[1])
			first := c.newDirect(t, "first", "10.244.1.5", "fd00:10:244::5", noProbe)
			second := c.newDirect(t, "second", "10.244.1.6", "fd00:10:244::6", noProbe)
			before := c.state(t)
			first.add(t, both)
			second.add(t, both)
			first.add(t, both)
			first.requireSeen(t, egress4, egress6)
			first.del(t)
			second.requireSeen(t, egress4, egress6)
			second.del(t)
			require.Equal(t, before, c.state(t))
		})
	}
}

// connections returns the conntrack entries that have one of these addresses as
// their original source or as the source of the reply, or, without addresses, all:
// what tells one from another, as conntrack prints it.
func (c *cluster) connections(t *testing.T, of ...string) []string {
	t.Helper()
	var tuples []string
	for _, family := range []string{"ipv4", "ipv6"} {
		for line := range strings.Lines(c.command(t, "conntrack", "-L", "-f", family)) {
			fields := strings.Fields(line)
			if len(fields) < 3 || strings.HasPrefix(line, "conntrack ") {
				continue // the summary
			}
			tuple := fields[:1]
			has := len(of) == 0
			for _, f := range fields {
				key, value, _ := strings.Cut(f, "=")
				if slices.Contains([]string{"src", "dst", "sport", "dport"}, key) {
					tuple = append(tuple, f)
				}
				if key == "src" && slices.ContainsFunc(of, func(a string) bool { return sameAddress(a, value) }) {
					has = true
				}
			}
			if has {
				tuples = append(tuples, strings.Join(tuple, " "))
			}
		}
	}
	slices.Sort(tuples)
	return tuples
}

func sameAddress(a, b string) bool { return netip.MustParseAddr(a) == netip.MustParseAddr(b) }

// TestConntrack: DEL drops the connections of the pod's addresses, those that it
// opened and those opened to it, by its address or a Service's, and no other; so
// the next pod with them, and even with the same ports, gets its own translation.
func TestConntrack(t *testing.T) {
	t.Parallel()
	c := newNode(t)
	c.masquerade(t)
	c.command(t, "nft", `
		add table inet services
		add chain inet services prerouting { type nat hook prerouting priority dstnat; }
		add rule inet services prerouting ip daddr 10.96.0.10 dnat ip to 10.244.1.5`)
	sharing := c.newDirect(t, "sharing", "10.244.1.6", "fd00:10:244::6", noProbe)
	plain := c.newDirect(t, "plain", "10.244.1.7", "fd00:10:244::7", noProbe)
	plain.ServeWhoAmI(t, nettest.WhoAmIPort)
	gone := c.newDirect(t, "gone", "10.244.1.5", "fd00:10:244::5", noProbe)
	gone.ServeWhoAmI(t, nettest.WhoAmIPort)
	sharing.add(t, both)
	plain.add(t, nil)
	gone.add(t, both)

	networks := []string{"udp", "tcp"}
	for _, d := range []*direct{sharing, gone} {
		for _, network := range networks {
			require.Equal(t, egress4, askFrom(t, d.Namespace, network, 5000, nettest.ServerAskIPv4))
			require.Equal(t, egress6, askFrom(t, d.Namespace, network, 5000, nettest.ServerAskIPv6))
		}
	}
	for i, server := range []string{
		"10.244.1.5:8080", "10.96.0.10:8080", "[fd00:10:244::5]:8080", // to the pod
		nettest.ServerAskIPv4, nettest.ServerAskIPv6,
	} {
		for _, network := range networks {
			askFrom(t, plain.Namespace, network, 6000+i, server)
		}
	}
	for _, network := range networks { // between others
		require.Equal(t, "10.244.1.6", askFrom(t, sharing.Namespace, network, 7000, "10.244.1.7:8080"))
		require.Equal(t, "fd00:10:244::6", askFrom(t, sharing.Namespace, network, 7000, "[fd00:10:244::7]:8080"))
	}
	all, its := c.connections(t), c.connections(t, gone.addresses...)
	// By each protocol: two to the server, three from plain.
	require.Len(t, its, 2*5)
	rest := slices.DeleteFunc(slices.Clone(all), func(s string) bool { return slices.Contains(its, s) })
	require.Len(t, rest, 2*6)

	gone.del(t)
	require.Equal(t, rest, c.connections(t))
	gone.die(t)

	next := c.newDirect(t, "next", "10.244.1.5", "fd00:10:244::5", noProbe)
	next.add(t, others)
	for _, network := range networks {
		require.Equal(t, other4, askFrom(t, next.Namespace, network, 5000, nettest.ServerAskIPv4))
		require.Equal(t, other6, askFrom(t, next.Namespace, network, 5000, nettest.ServerAskIPv6))
	}
}

// TestConntrackOfPlain: the pod that had the address before was a plain one, whose
// DEL drops no connections. The annotated one must not inherit their masquerade.
func TestConntrackOfPlain(t *testing.T) {
	t.Parallel()
	c := newNode(t)
	c.masquerade(t)
	gone := c.newDirect(t, "gone", "10.244.1.5", "fd00:10:244::5", noProbe)
	gone.add(t, nil)
	gone.del(t) // the processes of a pod can outlive it for a moment
	for _, network := range []string{"udp", "tcp"} {
		require.Equal(t, nettest.PrimaryIPv4, askFrom(t, gone.Namespace, network, 5000, nettest.ServerAskIPv4))
		require.Equal(t, nettest.PrimaryIPv6, askFrom(t, gone.Namespace, network, 5000, nettest.ServerAskIPv6))
	}
	gone.die(t)
	next := c.newDirect(t, "next", "10.244.1.5", "fd00:10:244::5", noProbe)
	next.add(t, both)
	for _, network := range []string{"udp", "tcp"} {
		require.Equal(t, egress4, askFrom(t, next.Namespace, network, 5000, nettest.ServerAskIPv4))
		require.Equal(t, egress6, askFrom(t, next.Namespace, network, 5000, nettest.ServerAskIPv6))
	}
}
