package integration

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// guarded is a cluster with an annotated pod, and the packets that the router has seen of
// it since: by which link they came, and with which source.
type guarded struct {
	*cluster
	pod *direct
}

// seen has the router count packets for the servers by link and source.
const seen = `
table inet seen {
	set seen4 { type iface_index . ipv4_addr; size 4096; flags dynamic; counter; }
	set seen6 { type iface_index . ipv6_addr; size 4096; flags dynamic; counter; }
	chain prerouting {
		type filter hook prerouting priority raw
		ip daddr 203.0.113.0/24 meta l4proto != icmp update @seen4 { iif . ip saddr }
		ip6 daddr 2001:db8:80::/64 meta l4proto != ipv6-icmp update @seen6 { iif . ip6 saddr }
	}
}
`

func newGuarded(t *testing.T, entry object) *guarded {
	t.Helper()
	g := &guarded{cluster: newCluster(t, nettest.LabOptions{SecondDefault: true}, "1.0.0")}
	g.pod = g.newDirect(t, "pod", "10.244.1.5", "fd00:10:244::5", egressIP(entry))
	g.pod.add(t, both)
	g.pod.requireSeen(t, egress4, egress6)
	g.countSources(t)
	return g
}

// countSources has the router begin to count.
func (g *guarded) countSources(t *testing.T) {
	t.Helper()
	g.on(t, g.Router, "sh", "-c", fmt.Sprintf("echo '%s' | nft -f -", seen))
}

// sources returns "LINK SOURCE" of what has reached the router on its way to the servers.
func (g *guarded) sources(t *testing.T) []string {
	t.Helper()
	var listed struct {
		Nftables []struct {
			Set *struct {
				Elem []struct {
					Elem struct {
						Val struct{ Concat [2]string } `json:"val"`
					} `json:"elem"`
				} `json:"elem"`
			} `json:"set"`
		} `json:"nftables"`
	}
	require.NoError(t, json.Unmarshal([]byte(g.on(t, g.Router, "nft", "-j", "list", "table", "inet", "seen")), &listed))
	var sources []string
	for _, object := range listed.Nftables {
		if object.Set == nil {
			continue
		}
		for _, e := range object.Set.Elem {
			sources = append(sources, strings.Join(e.Elem.Val.Concat[:], " "))
		}
	}
	return sources
}

// rightSources are the only ones that an annotated pod may have outside of the cluster.
var rightSources = []string{nettest.RouterSecondLink + " " + egress4, nettest.RouterSecondLink + " " + egress6}

// requireDropped: what the pod sends does not leave wrongly, or at all, and status and
// explain say so.
func (g *guarded) requireDropped(t *testing.T) {
	t.Helper()
	answered(g.pod, "udp", "tcp") // whether or not anybody does
	require.Subset(t, rightSources, g.sources(t))
	status, exit := g.egressIP(t, "status")
	require.Equal(t, 1, exit, status)
	require.Contains(t, status, "dropped by the guard")
	require.Contains(t, status, "10.244.1.5")
}

// TestGuard: whatever somebody else does to the packets of an annotated pod, they leave by
// their link with their egress address, or not at all.
func TestGuard(t *testing.T) {
	t.Parallel()
	const masquerade = "table inet other { chain post { type nat hook postrouting priority %d\n oifname enp7s0 masquerade\n }\n }"
	for name, attack := range map[string]func(t *testing.T, g *guarded){
		"a translation at the earliest priority, made later": func(t *testing.T, g *guarded) {
			g.load(t, fmt.Sprintf(masquerade, -199), "nft", "-f")
		},
		"a stateless translation behind all others": func(t *testing.T, g *guarded) {
			g.load(t, `table inet other { chain post { type filter hook postrouting priority 1000
				ip saddr 192.168.124.99 ip saddr set 192.168.124.10
				ip6 saddr fd00:124::99 ip6 saddr set fd00:124::10
			}
			}`, "nft", "-f")
		},
		"packets that are not tracked": func(t *testing.T, g *guarded) {
			g.load(t, "table inet other { chain raw { type filter hook prerouting priority raw\n ip saddr 10.244.1.5 notrack\n ip6 saddr fd00:10:244::5 notrack\n }\n }", "nft", "-f")
		},
		"a default by another link in the link's table": func(t *testing.T, g *guarded) {
			g.inBoth(t, "route replace default via GATEWAY dev eth0 metric 1 table TABLE")
		},
		"half of all addresses by another link in the link's table": func(t *testing.T, g *guarded) {
			g.command(t, "ip", "route", "add", "128.0.0.0/1", "via", nettest.PrimaryGatewayIPv4, "table", g.table(t))
			g.command(t, "ip", "-6", "route", "add", "2000::/3", "via", nettest.PrimaryGatewayIPv6, "table", g.table(t))
		},
		"a mark that is written whole, and a rule before the source rules": func(t *testing.T, g *guarded) {
			g.load(t, "table inet other { chain pre { type filter hook prerouting priority -50\n meta mark set 0x42\n }\n }", "nft", "-f")
			g.inBoth(t, "rule add priority 5000 not fwmark 0xca6c lookup 51820")
			g.inBoth(t, "route add default via GATEWAY dev eth0 table 51820")
		},
		"all bits of the mask, written behind the classification": func(t *testing.T, g *guarded) {
			g.load(t, writesAllBits, "nft", "-f")
		},
		"all bits of the mask, written behind the classification, and another link": func(t *testing.T, g *guarded) {
			g.load(t, writesAllBits, "nft", "-f")
			g.masquerade(t)
			g.inBoth(t, "rule add priority 5000 not fwmark 0xca6c lookup 51820")
			g.inBoth(t, "route add default via GATEWAY dev eth0 table 51820")
		},
		"the classification's elements flushed": func(t *testing.T, g *guarded) {
			g.command(t, "nft", "flush map inet egress_ip out4; flush map inet egress_ip out6")
		},
		"a stateless translation before the classification": func(t *testing.T, g *guarded) {
			g.load(t, `table inet other { chain pre { type filter hook prerouting priority -120
				ip saddr 10.244.1.5 ip saddr set 10.244.1.77
				ip6 saddr fd00:10:244::5 ip6 saddr set fd00:10:244::77
			}
			}`, "nft", "-f")
			// The main plugin's translation, which makes a packet with any source of the pods' leave.
			g.masquerade(t)
		},
		"a rule before those of egress-ip": func(t *testing.T, g *guarded) {
			g.inBoth(t, "rule add priority 5000 not fwmark 0xca6c lookup 51820")
			g.inBoth(t, "route add default via GATEWAY dev eth0 table 51820")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newGuarded(t, nil)
			attack(t, g)
			g.requireDropped(t)
		})
	}
}

// writesAllBits makes packets look as if they were none of egress-ip's.
const writesAllBits = "table inet other { chain pre { type filter hook forward priority 0\n meta mark set 0xffffffff\n }\n }"

// TestEarlyTranslation: a nat chain of somebody else's, at the priorities that people use,
// does not see an annotated pod's connections.
func TestEarlyTranslation(t *testing.T) {
	t.Parallel()
	for _, priority := range []int{-150, 0, 89, 100} {
		t.Run(fmt.Sprint(priority), func(t *testing.T) {
			t.Parallel()
			g := newGuarded(t, nil)
			g.load(t, fmt.Sprintf("table inet other { chain post { type nat hook postrouting priority %d\n masquerade\n }\n }", priority), "nft", "-f")
			g.pod.requireSeen(t, egress4, egress6)
			require.ElementsMatch(t, rightSources, g.sources(t))
		})
	}
}

// TestAddAfterFlush: when somebody has flushed nftables, the next pod's ADD does not let the
// others leave as plain ones: it writes what all of them need.
func TestAddAfterFlush(t *testing.T) {
	t.Parallel()
	for name, flush := range map[string]string{
		"ruleset flushed": "flush ruleset", "table deleted": "delete table inet egress_ip",
		"chains flushed": "flush table inet egress_ip", "unmarked flushed": "flush map inet egress_ip unmarked; flush map inet egress_ip out4; flush map inet egress_ip out6",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newGuarded(t, nil)
			g.command(t, "nft", flush)
			g.newDirect(t, "next", "10.244.1.6", "fd00:10:244::6", egressIP(nil)).add(t, address("192.168.124.98,fd00:124::98"))
			g.pod.requireSeen(t, egress4, egress6)
			require.ElementsMatch(t, rightSources, g.sources(t))
			status, exit := g.egressIP(t, "status")
			require.Zero(t, exit, status)
		})
	}
}

// TestUnrecordedElements: what the kernel has for a pod address, and no record asks for, goes
// with the ADD of the address' next pod, whatever that is.
func TestUnrecordedElements(t *testing.T) {
	t.Parallel()
	for name, next := range map[string]annotations{"plain": nil, "annotated": address("192.168.124.98,fd00:124::98")} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, nettest.LabOptions{SecondDefault: true}, "1.0.0")
			c.masquerade(t)
			stays := c.newDirect(t, "stays", "10.244.1.6", "fd00:10:244::6", egressIP(nil))
			stays.add(t, address("192.168.124.97,fd00:124::97"))
			gone := c.newDirect(t, "gone", "10.244.1.5", "fd00:10:244::5", egressIP(nil))
			gone.add(t, both)
			c.command(t, "sh", "-c", "rm "+c.recordDir(t)+"/attachments/gone:*")
			d := &direct{gone.Pod, c, "next", gone.entry, gone.addresses}
			d.add(t, next)
			if next == nil {
				d.requireSeen(t, nettest.PrimaryIPv4, nettest.PrimaryIPv6)
			} else {
				d.requireSeen(t, "192.168.124.98", "fd00:124::98")
			}
			stays.requireSeen(t, "192.168.124.97", "fd00:124::97")
			require.NotContains(t, c.command(t, "nft", "list", "table", "inet", "egress_ip"), `comment "gone"`)
		})
	}
}

// TestRename: a link that gets another name is the same link.
func TestRename(t *testing.T) {
	t.Parallel()
	g := newGuarded(t, object{"probeSNAT": object{"mode": "never"}}) // whose links are named
	g.command(t, "ip", "link", "set", nettest.SecondLink, "name", "uplink9")
	g.pod.requireSeen(t, egress4, egress6)
	require.ElementsMatch(t, rightSources, g.sources(t))
	status, exit := g.egressIP(t, "status")
	require.Zero(t, exit, status)
	require.Contains(t, status, "uplink9")
	_, err := g.pod.call(t, "CHECK", both)
	require.NoError(t, err)
	out, exit := g.egressIP(t, "resync")
	require.Zero(t, exit, out)
	explained, exit := g.egressIP(t, "explain", "10.244.1.5")
	require.Zero(t, exit, explained)
	require.Contains(t, explained, "leaves by uplink9 as "+egress4)
	g.pod.requireSeen(t, egress4, egress6)
	g.pod.del(t)
	g.requireNoAttachment(t)
}

// inBoth runs ip for both address families, with the primary link's gateway and the
// egress link's table in it.
func (g *guarded) inBoth(t *testing.T, command string) {
	t.Helper()
	for family, gateway := range map[string]string{"-4": nettest.PrimaryGatewayIPv4, "-6": nettest.PrimaryGatewayIPv6} {
		words := strings.Fields(strings.NewReplacer("GATEWAY", gateway, "TABLE", g.table(t)).Replace(command))
		g.command(t, "ip", append([]string{family}, words...)...)
	}
}

func (g *guarded) table(t *testing.T) string {
	t.Helper()
	return fmt.Sprint(1000 + g.Node.Index(t, nettest.SecondLink))
}

// TestDerivedNetworks: without clusterCIDRs, what main has by another link is the cluster's,
// but no default in all but name, and nothing that the egress link has too.
func TestDerivedNetworks(t *testing.T) {
	t.Parallel()
	for name, routes := range map[string][]nettest.Route{
		"halves of everything by the primary link": {
			{Dst: "0.0.0.0/1", Via: nettest.PrimaryGatewayIPv4}, {Dst: "128.0.0.0/1", Via: nettest.PrimaryGatewayIPv4},
			{Dst: "2000::/3", Via: nettest.PrimaryGatewayIPv6},
		},
		"the server's network on both links": {
			{Dst: "203.0.113.0/24", Via: nettest.PrimaryGatewayIPv4}, {Dst: "203.0.113.0/24", Via: nettest.SecondGatewayIPv4, Metric: 200},
			{Dst: "2001:db8:80::/64", Via: nettest.PrimaryGatewayIPv6}, {Dst: "2001:db8:80::/64", Via: nettest.SecondGatewayIPv6, Metric: 2048},
		},
		"the server's network on the link, inside one of the primary link": {
			{Dst: "203.0.112.0/23", Via: nettest.PrimaryGatewayIPv4}, {Dst: "203.0.113.0/24", Via: nettest.SecondGatewayIPv4},
			{Dst: "2001:db8:80::/60", Via: nettest.PrimaryGatewayIPv6}, {Dst: "2001:db8:80::/64", Via: nettest.SecondGatewayIPv6},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, nettest.LabOptions{SecondDefault: true}, "1.0.0")
			for _, r := range routes {
				c.Node.AddRoute(t, r)
			}
			p := c.newDirect(t, "pod", "10.244.1.5", "fd00:10:244::5", egressIP(object{"clusterCIDRs": []string{}}))
			p.add(t, both)
			p.requireSeen(t, egress4, egress6)
			status, exit := c.egressIP(t, "status")
			require.Zero(t, exit, status)
		})
	}
}

// TestLatePackets: without clusterCIDRs, a packet of a connection that conntrack does not
// know reaches another pod; to the outside it does not leave.
func TestLatePackets(t *testing.T) {
	t.Parallel()
	c := newCluster(t, nettest.LabOptions{SecondDefault: true}, "1.0.0")
	other := c.newDirect(t, "other", "10.244.1.6", "fd00:10:244::6", egressIP(nil))
	p := c.newDirect(t, "pod", "10.244.1.5", "fd00:10:244::5", egressIP(object{"clusterCIDRs": []string{}}))
	p.add(t, both)
	arrived := other.Capture(t, "eth0")
	left := c.Router.Capture(t, nettest.RouterSecondLink)
	c.Node.Sysctl(t, "net.netfilter.nf_conntrack_tcp_loose", "0") // what is late is invalid
	for _, to := range []string{"10.244.1.6", "fd00:10:244::6", nettest.ServerIPv4, nettest.ServerIPv6} {
		c.sendLate(t, p, to)
	}
	require.Eventually(t, func() bool {
		return arrived.Count(func(p nettest.Packet) bool { return !p.Outgoing && p.DstPort == latePort }) == 2
	}, waitFor, tick)
	require.Zero(t, left.Count(func(p nettest.Packet) bool { return p.DstPort == latePort }))
	status, exit := c.egressIP(t, "status")
	require.Zero(t, exit, "a late packet is no attack: %s", status)
}

// TestSamePorts: two pods that share an egress address and send from the same source port
// at the same instant lose no packet.
func TestSamePorts(t *testing.T) {
	t.Parallel()
	const rounds, first = 1000, 20000
	// Two packets of one round may still draw the same port of 64,512.
	const unlucky = 2
	c := newCluster(t, nettest.LabOptions{SecondDefault: true}, "1.0.0")
	pods := []*direct{
		c.newDirect(t, "one", "10.244.1.5", "fd00:10:244::5", egressIP(nil)),
		c.newDirect(t, "two", "10.244.1.6", "fd00:10:244::6", egressIP(nil)),
	}
	for _, p := range pods {
		p.add(t, both)
		p.requireSeen(t, egress4, egress6)
	}
	for family, server := range map[string]string{"IPv4": nettest.ServerIPv4 + ":9", "IPv6": "[" + nettest.ServerIPv6 + "]:9"} {
		c.on(t, c.Router, "nft", "add table inet arrived; add chain inet arrived pre { type filter hook prerouting priority raw; }; flush chain inet arrived pre; add rule inet arrived pre udp dport 9 counter")
		var sockets [2][]int
		for i, p := range pods {
			for port := range rounds {
				sockets[i] = append(sockets[i], openFrom(t, p.Namespace, unix.SOCK_DGRAM, first+port, server))
			}
		}
		var arrived atomic.Int64
		var sending sync.WaitGroup
		for i := range pods {
			sending.Go(func() {
				runtime.LockOSThread()
				for round, fd := range sockets[i] {
					// In lockstep: no yield, which would take longer than what is to coincide.
					for arrived.Add(1); arrived.Load() < int64(len(pods)*(round+1)); {
					}
					_, _ = unix.Write(fd, []byte("?"))
				}
			})
		}
		sending.Wait()
		for _, fd := range slices.Concat(sockets[0], sockets[1]) {
			_ = unix.Close(fd)
		}
		var packets int
		require.Eventually(t, func() bool {
			_, err := fmt.Sscanf(regexp.MustCompile(`counter packets (\d+)`).FindString(c.on(t, c.Router, "nft", "list", "table", "inet", "arrived")), "counter packets %d", &packets)
			return err == nil && packets >= len(pods)*rounds-unlucky
		}, waitFor, 50*tick, "%s", family)
	}
}

// TestSourceCheck: a plain pod that sends with an annotated pod's source gets nothing out,
// whichever way the main plugin connects pods, and status says so; with the check switched
// off it does.
func TestSourceCheck(t *testing.T) {
	t.Parallel()
	for _, check := range []bool{true, false} {
		t.Run(fmt.Sprintf("sourceCheck %t", check), func(t *testing.T) {
			t.Parallel()
			g := newGuarded(t, object{"sourceCheck": check})
			g.Node.Sysctl(t, "net.ipv4.conf.all.rp_filter", "0")
			forger := g.newDirect(t, "forger", "10.244.1.6", "fd00:10:244::6", egressIP(nil))
			g.Node.Sysctl(t, "net.ipv4.conf."+forger.HostLink+".rp_filter", "0")
			forger.add(t, nil)
			left := g.Router.Capture(t, nettest.RouterSecondLink)
			for _, f := range []struct{ source, to string }{{"10.244.1.5", nettest.ServerIPv4}, {"fd00:10:244::5", nettest.ServerIPv6}} {
				g.sendForged(t, forger, f.source, f.to)
			}
			g.pod.requireSeen(t, egress4, egress6) // the pod itself goes on
			forged := left.Count(func(p nettest.Packet) bool { return p.DstPort == forgedPort })
			status, exit := g.egressIP(t, "status")
			require.Zero(t, exit, status)
			if check {
				require.Zero(t, forged)
				require.Contains(t, status, "arrived by "+forger.HostLink)
			} else {
				require.Equal(t, 2, forged)
			}
		})
	}
}

const latePort, forgedPort = 7777, 7778

// sendForged sends a UDP packet with a source that is not the pod's.
func (c *cluster) sendForged(t *testing.T, from *direct, source, to string) {
	t.Helper()
	from.AddAddress(t, "eth0", host(netip.MustParseAddr(source)).String())
	from.Do(t, func() {
		dialer := net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP(source)}}
		conn, err := dialer.Dial("udp", net.JoinHostPort(to, fmt.Sprint(forgedPort)))
		require.NoError(t, err)
		defer conn.Close()
		_, err = conn.Write([]byte("forged"))
		require.NoError(t, err)
	})
}

func host(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// sendLate sends a TCP reset of a connection that there is not.
func (c *cluster) sendLate(t *testing.T, from *direct, to string) {
	t.Helper()
	const reset, noOptions = 0x04, 5 << 4
	segment := []byte{0x30, 0x39, latePort >> 8, latePort & 0xff, 0, 0, 0, 1, 0, 0, 0, 0, noOptions, reset, 0, 0, 0, 0, 0, 0}
	family, remote := unix.AF_INET, unix.Sockaddr(nil)
	if a := netip.MustParseAddr(to); a.Is4() {
		remote = &unix.SockaddrInet4{Addr: a.As4()}
	} else {
		family, remote = unix.AF_INET6, &unix.SockaddrInet6{Addr: a.As16()}
	}
	from.Do(t, func() {
		fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
		require.NoError(t, err)
		defer unix.Close(fd)
		require.NoError(t, unix.Sendto(fd, segment, 0, remote))
	})
}
