package integration

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
)

// firewall drops what it does not know, behind others' chains, as firewalld does.
const firewall = `
table inet fw {
	chain forward {
		type filter hook forward priority 10; policy drop;
		ct state established,related accept
		iifname "cni0" accept
		ct status dnat accept
	}
}
`

// foreignRules is all of nftables that is not egress-ip's, iptables' tables among it.
func (c *cluster) foreignRules(t *testing.T) string {
	t.Helper()
	var tables strings.Builder
	for line := range strings.Lines(c.command(t, "nft", "list", "tables")) {
		table := strings.Fields(line)[1:] // behind "table"
		if slices.Equal(table, []string{"inet", "egress_ip"}) || slices.Equal(table, []string{"ip6", "egress_ip_probe"}) {
			continue
		}
		tables.WriteString(c.command(t, "nft", append([]string{"-s", "list", "table"}, table...)...))
	}
	return tables.String()
}

// portmap is the reference portmap plugin.
func portmap(backend string) object {
	return object{"type": "portmap", "backend": backend, "snat": true, "capabilities": object{"portMappings": true}}
}

// newMappedPod is a pod with a port of the node's.
func (c *cluster) newMappedPod(t *testing.T, a annotations, hostPort uint16) *pod {
	t.Helper()
	p := c.newPod(t, a)
	var mappings []object
	for _, proto := range []string{"tcp", "udp"} {
		mappings = append(mappings, object{"hostPort": hostPort, "containerPort": nettest.WhoAmIPort, "protocol": proto})
	}
	p.capabilities = object{"portMappings": mappings}
	p.ServeWhoAmI(t, nettest.WhoAmIPort)
	p.add(t)
	return p
}

// address is the one that the pod was given.
func (p *pod) address(t *testing.T, ipv4 bool) string {
	t.Helper()
	for _, a := range p.Addresses(t, "eth0") {
		if a.Addr().Is4() == ipv4 && !a.Addr().IsLinkLocalUnicast() {
			return a.Addr().String()
		}
	}
	require.Fail(t, "pod without address")
	return ""
}

// asks asks an address over TCP and UDP; both answers must be the same.
func asks(t *testing.T, n *nettest.Namespace, address string, port uint16) string {
	t.Helper()
	return (&pod{Namespace: n}).sees(t, netip.AddrPortFrom(netip.MustParseAddr(address), port).String())
}

// TestOthersNAT: with the main plugin's masquerade and port mappings by either
// backend, before and behind egress-ip, and with somebody else's firewall, an
// annotated pod differs from a plain one in its source outside of the cluster,
// and in nothing else.
func TestOthersNAT(t *testing.T) {
	t.Parallel()
	for _, backend := range []string{"iptables", "nftables"} {
		for _, order := range []string{"before", "behind"} {
			for _, bridged := range bridgeNetfilterValues() {
				t.Run(fmt.Sprintf("%s, portmap %s, br_netfilter %t", backend, order, bridged), func(t *testing.T) {
					t.Parallel()
					main := bridge(t, backend)
					main["hairpinMode"] = true // with br_netfilter, for a pod's own hostPort
					plugins := []object{main, portmap(backend), egressIP(object{"clusterCIDRs": withNodes})}
					if order == "behind" {
						slices.Reverse(plugins[1:])
					}
					c := newCluster(t, nettest.LabOptions{SecondDefault: true}, "1.0.0", plugins...)
					c.bridgeNetfilter(t, bridged)
					requireOthersNAT(t, c, backend, bridged)
				})
			}
		}
	}
}

const bridgeSysctls = "/proc/sys/net/bridge"

// bridgeNetfilterValues are those that this machine can have: without the module
// br_netfilter bridged packets never pass the chains of IP.
func bridgeNetfilterValues() []bool {
	if _, err := os.Stat(bridgeSysctls); err != nil {
		return []bool{false}
	}
	return []bool{false, true}
}

// bridgeNetfilter lets bridged packets pass the chains of IP, or not.
func (c *cluster) bridgeNetfilter(t *testing.T, on bool) {
	t.Helper()
	if _, err := os.Stat(bridgeSysctls); err != nil {
		return // off, and so is what is asked for
	}
	value := map[bool]string{false: "0", true: "1"}[on]
	c.Node.Sysctl(t, "net.bridge.bridge-nf-call-iptables", value)
	c.Node.Sysctl(t, "net.bridge.bridge-nf-call-ip6tables", value)
}

func requireOthersNAT(t *testing.T, c *cluster, backend string, bridged bool) {
	t.Helper()
	c.load(t, firewall, "nft", "-f")
	other := c.addOtherNode(t, nettest.PrimaryLink)
	c.Node.ServeWhoAmI(t, nettest.WhoAmIPort)
	c.newMappedPod(t, nil, 8079).del(t) // what the plugins leave behind
	plain := c.newMappedPod(t, nil, 8081)
	c.kubeProxy(t, backend,
		service{toOtherPod4, otherPod4, false}, service{toOtherPod6, otherPod6, false},
		service{toServer4, nettest.ServerIPv4, false}, service{toServer6, nettest.ServerIPv6, false},
		service{toNeighbour4, plain.address(t, true), false}, service{toNeighbour6, plain.address(t, false), false})
	before := c.state(t)
	annotated := c.newMappedPod(t, both, 8082)
	watch := c.watch(t)

	// What each sees, in the order of destinations.
	view := func(p *pod, hostPort uint16) string {
		var seen []string
		see := func(n *nettest.Namespace, address string, port uint16) {
			saw := asks(t, n, address, port)
			seen = append(seen, fmt.Sprintf("%s port %d from %s: %s\n", address, port, n, saw))
		}
		for _, to := range []string{
			otherPod4, otherPod6, otherNode4, otherNode6, toOtherPod4, toOtherPod6, nettest.PrimaryIPv4, nettest.PrimaryIPv6,
			nettest.SecondIPv4, nettest.SecondIPv6,
		} {
			see(p.Namespace, to, nettest.WhoAmIPort)
		}
		for _, from := range []*nettest.Namespace{c.Server, other} {
			for _, to := range []string{nettest.PrimaryIPv4, nettest.PrimaryIPv6, nettest.SecondIPv4, nettest.SecondIPv6} {
				see(from, to, hostPort)
			}
		}
		for _, to := range []string{nettest.PrimaryIPv4, nettest.PrimaryIPv6} {
			see(p.Namespace, to, hostPort) // a hairpin
		}
		see(c.Node, p.address(t, true), nettest.WhoAmIPort)
		see(c.Node, p.address(t, false), nettest.WhoAmIPort)
		return strings.NewReplacer(
			p.address(t, true), "IPv4", p.address(t, false), "IPv6", fmt.Sprint(hostPort), "hostPort",
		).Replace(strings.Join(seen, ""))
	}
	ours := view(annotated, 8082)
	require.Equal(t, view(plain, 8081), ours)
	for _, way := range []string{
		nettest.PrimaryIPv4 + " port hostPort from server: " + nettest.ServerIPv4, nettest.PrimaryIPv6 + " port hostPort from server: " + nettest.ServerIPv6,
	} {
		require.Contains(t, ours, way)
	}
	for _, ipv4 := range []bool{true, false} {
		require.Equal(t, plain.address(t, ipv4), asks(t, plain.Namespace, annotated.address(t, ipv4), nettest.WhoAmIPort))
		require.Equal(t, annotated.address(t, ipv4), asks(t, annotated.Namespace, plain.address(t, ipv4), nettest.WhoAmIPort))
	}
	if bridged { // otherwise the answer goes past the translation
		require.Equal(t, annotated.address(t, true), annotated.sees(t, asked(toNeighbour4)))
		require.Equal(t, annotated.address(t, false), annotated.sees(t, asked(toNeighbour6)))
	}
	watch.requireNoEgress(t)

	watch = c.watch(t)
	annotated.requireSeen(t, egress4, egress6)
	require.Equal(t, egress4, annotated.sees(t, asked(toServer4)))
	require.Equal(t, egress6, annotated.sees(t, asked(toServer6)))
	watch.requireNoLeak(t)
	plain.requireSeen(t, nettest.PrimaryIPv4, nettest.PrimaryIPv6)
	annotated.del(t)
	require.Equal(t, before, c.state(t))
}

// requireNoEgress: nothing of what was asked had an egress address.
func (w watched) requireNoEgress(t *testing.T) {
	t.Helper()
	for _, c := range []*nettest.Capture{w.primary, w.second} {
		require.Zero(t, c.Count(func(p nettest.Packet) bool { return isWhoAmI(p) && has(p, egress4, egress6) }))
	}
}

// TestKubeProxyMasquerade: what kube-proxy has marked to be masqueraded is, both
// what an annotated pod sends and what is sent to it; but outside of the cluster
// the egress address wins.
func TestKubeProxyMasquerade(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"iptables", "nftables"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, nettest.LabOptions{SecondDefault: true}, "1.0.0")
			other := c.addOtherNode(t, nettest.PrimaryLink)
			c.kubeProxy(t, mode,
				service{toOtherPod4, otherPod4, true}, service{toOtherPod6, otherPod6, true},
				service{toServer4, nettest.ServerIPv4, true}, service{toServer6, nettest.ServerIPv6, true},
				// Of the annotated pod: for other pods, and for the outside on the node's own address.
				service{toItself4, pod4, true}, service{toItself6, pod6, true},
				service{nettest.PrimaryIPv4, pod4, true}, service{nettest.PrimaryIPv6, pod6, true})
			c.load(t, foreign, "nft", "-f")
			annotated := c.newDirect(t, "annotated", pod4, pod6, egressIP(nil))
			annotated.ServeWhoAmI(t, nettest.WhoAmIPort)
			annotated.add(t, both)
			watch := c.watch(t)

			// Each connection's first packet has kube-proxy's bit, until it masquerades.
			bits := func(mark uint32, f func()) {
				t.Helper()
				f()
				require.True(t, slices.ContainsFunc(c.hops(t, "forwarded"), func(h hop) bool { return h.mark == mark }),
					"%v", c.hops(t, "forwarded"))
				c.command(t, "nft", "flush", "set", "inet", "foreign", "forwarded")
			}
			bits(0x01004000, func() {
				annotated.requireReached(t, []destination{{toServer4, egress4}, {toServer6, egress6}})
			})
			watch.requireNoLeak(t)
			bits(0x0f004000, func() {
				annotated.requireReached(t, []destination{{toOtherPod4, nettest.PrimaryIPv4}, {toOtherPod6, nettest.PrimaryIPv6}})
			})
			bits(0x0f004000, func() {
				require.Equal(t, nettest.PrimaryIPv4, asks(t, c.Server, nettest.PrimaryIPv4, nettest.WhoAmIPort))
				require.NotEqual(t, nettest.ServerIPv6, asks(t, c.Server, nettest.PrimaryIPv6, nettest.WhoAmIPort))
				require.Equal(t, nettest.PrimaryIPv4, asks(t, other, nettest.PrimaryIPv4, nettest.WhoAmIPort))
			})
			for _, h := range c.hops(t, "left") {
				if h.out != nettest.SecondLink {
					require.Zero(t, h.mark&0x4000, "masqueraded by kube-proxy: %s", h)
				}
			}
		})
	}
}

// TestOthersTables: egress-ip writes to its own two tables and to no other.
func TestOthersTables(t *testing.T) {
	t.Parallel()
	c := newCluster(t, nettest.LabOptions{SecondDefault: true, ThirdLink: true}, "1.1.0",
		bridge(t, "iptables"), portmap("nftables"), egressIP(nil))
	c.load(t, firewall, "nft", "-f")
	c.load(t, foreign, "nft", "-f")
	c.kubeProxy(t, "iptables", services...)
	c.kubeProxy(t, "nftables", services...)
	c.newMappedPod(t, nil, 8081) // the plugins' own
	plain := c.newDirect(t, "plain", neighbour4, neighbour6, egressIP(nil))
	first := c.newDirect(t, "first", pod4, pod6, egressIP(nil))
	second := c.newDirect(t, "second", "10.244.1.7", "fd00:10:244::7", egressIP(nil))
	c.command(t, "nft", "flush set inet foreign forwarded; flush set inet foreign left")
	before := c.foreignRules(t)
	for _, table := range []string{"table inet fw", "table ip kube-proxy", "table ip6 kube-proxy", "table ip nat", "table ip6 nat", "cni_hostport"} {
		require.Contains(t, before, table)
	}
	for _, step := range []func(){
		func() { plain.add(t, nil) },
		func() { first.add(t, both) },
		func() { first.add(t, both) },
		func() { second.add(t, address("192.168.124.98,fd00:124::98")) },
		func() { first.del(t) },
		func() {
			_, err := first.call(t, "ADD", address("192.0.2.77"))
			require.Error(t, err)
		},
		func() {
			_, err := second.call(t, "CHECK", address("192.168.124.98,fd00:124::98"))
			require.NoError(t, err)
		},
		func() {
			stdin := egressIP(object{"cniVersion": "1.1.0", "name": "net", "cni.dev/valid-attachments": []object{}})
			data, err := json.Marshal(stdin)
			require.NoError(t, err)
			_, err = c.plugin(call{command: "GC", stdin: string(data)})
			require.NoError(t, err)
		},
		func() { second.del(t) },
		func() { plain.del(t) },
	} {
		step()
		require.Equal(t, before, c.foreignRules(t))
	}
	require.NotContains(t, c.command(t, "nft", "list", "tables"), "inet egress_ip\n")
}
