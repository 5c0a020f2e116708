package main

import (
	"bytes"
	"fmt"
	"net"
	"os/exec"
	"strings"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// podsLink is the node's link by which all pods' packets come in.
const podsLink = "pods"

// nobody is the MAC address of every next hop: no link has it, so the namespace
// behind drops what it gets at once.
var nobody = net.HardwareAddr{2, 0, 0, 0, 0, 1}

// node is a node with two uplinks between a sender and two sinks, all links being veths:
//
//	            ┌── [node] ── eth0 ─────────┐
//	[wire] ─────┤ pods                      ├───── [wire]
//	            └────────── enp7s0 ─────────┘
//
// What every node of a cluster has is there: conntrack, and a masquerade for the
// pods on the primary link.
type node struct {
	*nettest.Namespace
	label     string
	pods      int // of annotated ones
	wire      *nettest.Namespace
	ends      map[string]string // the wire's end of each link of the node
	conntrack *netlink.Handle
}

// newNode builds a node without any egress plugin. number tells the nodes of a wire apart.
func newNode(s *scope, wire *nettest.Namespace, number int, label string, pods, rpFilter int) *node {
	return newNodeBetween(s, wire, wire, number, label, pods, rpFilter)
}

// newNodeBetween builds a node whose pods are in another namespace than the world.
func newNodeBetween(s *scope, inside, wire *nettest.Namespace, number int, label string, pods, rpFilter int) *node {
	n := &node{Namespace: nettest.New(s, label), label: label, pods: pods, wire: wire, ends: map[string]string{}}
	n.Forward(s)
	for _, conf := range []string{"all", "default"} {
		n.Sysctl(s, "net.ipv4.conf."+conf+".rp_filter", fmt.Sprint(rpFilter))
	}
	for link, to := range map[string]*nettest.Namespace{podsLink: inside, nettest.PrimaryLink: wire, nettest.SecondLink: wire} {
		n.ends[link] = fmt.Sprintf("%s%d", link, number)
		nettest.Connect(s, n.Namespace, link, to, n.ends[link])
	}
	n.AddAddress(s, nettest.PrimaryLink, nettest.PrimaryIPv4+"/24")
	n.AddAddress(s, nettest.PrimaryLink, nettest.PrimaryIPv6+"/64")
	n.AddAddress(s, nettest.SecondLink, nettest.SecondIPv4+"/24")
	n.AddAddress(s, nettest.SecondLink, nettest.SecondIPv6+"/64")
	for _, f := range families {
		n.neighbour(s, podsLink, f.podVia, nobody)
		n.AddRoute(s, nettest.Route{Dst: f.pods, Via: f.podVia, Link: podsLink, OnLink: true})
		for link, metric := range map[string]int{nettest.PrimaryLink: 1024, nettest.SecondLink: 2048} {
			n.neighbour(s, link, f.gateways[link], nobody)
			n.AddRoute(s, nettest.Route{Dst: defaultRoute(f), Via: f.gateways[link], Link: link, Metric: metric})
		}
	}
	n.run(s, masquerade, "nft", "-f", "-")
	// Entries are to last as long as a round.
	for _, timeout := range []string{"udp_timeout", "udp_timeout_stream"} {
		n.Sysctl(s, "net.netfilter.nf_conntrack_"+timeout, "3600")
	}
	var err error
	n.Do(s, func() { n.conntrack, err = netlink.NewHandle(unix.NETLINK_NETFILTER) })
	s.must(err)
	s.Cleanup(n.conntrack.Close)
	return n
}

func defaultRoute(f family) string {
	if f.bits == 32 {
		return "0.0.0.0/0"
	}
	return "::/0"
}

// masquerade is behind every egress system, so that theirs comes first.
const masquerade = `table inet node {
	chain postrouting {
		type nat hook postrouting priority srcnat + 1;
		ip saddr 10.244.0.0/16 oifname "eth0" masquerade
		ip6 saddr fd00:10:244::/64 oifname "eth0" masquerade
	}
}`

// neighbour makes a next hop known for ever.
func (n *node) neighbour(s *scope, link, address string, mac net.HardwareAddr) {
	err := n.Netlink().NeighSet(&netlink.Neigh{
		LinkIndex: n.Index(s, link), State: netlink.NUD_PERMANENT, IP: net.ParseIP(address), HardwareAddr: mac,
	})
	if err != nil {
		s.Fatalf("%s: neighbour %s on %s: %w", n.label, address, link, err)
	}
}

// run runs a command in the node, and returns what it prints.
func (n *node) run(s *scope, stdin, name string, args ...string) string {
	cmd := exec.CommandContext(s.ctx, name, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	if err := n.Namespace.Run(cmd); err != nil {
		s.Fatalf("%s: %s: %w: %s", n.label, cmd, err, &stderr)
	}
	return stdout.String()
}

// secondTable is the number of the second link's routing table, egress-ip's and OVN-Kubernetes' alike.
func (n *node) secondTable(s *scope) int { return 1000 + n.Index(s, nettest.SecondLink) }
