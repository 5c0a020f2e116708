package main

import (
	"fmt"
	"net/netip"

	"github.com/egress-ip/egress-ip/pkg/nettest"
)

// family is what differs between an IPv4 and an IPv6 node.
type family struct {
	name     string // "IPv4"
	flag     string // of ip
	restore  string // iptables-restore of the family
	bits     int    // of an address
	pod      func(i int) netip.Addr
	pods     string // network of the pods
	cluster  []string
	egress   string // the egress address, and its network
	network  string
	primary  string // the node's address on eth0, the source of plain pods
	second   string // the node's address on enp7s0
	server   string // where packets go
	gateways map[string]string
	podVia   string // the pods' next hop, as the node sees it
}

var families = []family{
	{
		name: "IPv4", flag: "-4", restore: "iptables-restore", bits: 32,
		pod:  func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 244, byte(i >> 8), byte(i)}) },
		pods: "10.244.0.0/16", cluster: []string{"10.244.0.0/16", "10.96.0.0/12", "192.0.2.0/24"},
		egress: "192.168.124.99", network: "192.168.124.0/24", primary: nettest.PrimaryIPv4, second: nettest.SecondIPv4, server: nettest.ServerIPv4,
		gateways: map[string]string{nettest.PrimaryLink: nettest.PrimaryGatewayIPv4, nettest.SecondLink: nettest.SecondGatewayIPv4},
		podVia:   "10.244.255.254",
	},
	{
		name: "IPv6", flag: "-6", restore: "ip6tables-restore", bits: 128,
		pod:  func(i int) netip.Addr { return netip.MustParseAddr(fmt.Sprintf("fd00:10:244::%x", i)) },
		pods: "fd00:10:244::/64", cluster: []string{"fd00:10:244::/64", "fd00:10:96::/112", "2001:db8:1::/64"},
		egress: "fd00:124::99", network: "fd00:124::/64", primary: nettest.PrimaryIPv6, second: nettest.SecondIPv6, server: nettest.ServerIPv6,
		gateways: map[string]string{nettest.PrimaryLink: nettest.PrimaryGatewayIPv6, nettest.SecondLink: nettest.SecondGatewayIPv6},
		podVia:   "fd00:10:244::ffff:1",
	},
}

// firstPlain is the number of the first plain pod; annotated ones are 1, 2, ...
const firstPlain = 0xc000

// annotated returns the addresses of the first n annotated pods.
func (f family) annotated(n int) []netip.Addr { return f.podsFrom(1, n) }

// plain returns those of n pods without annotation.
func (f family) plain(n int) []netip.Addr { return f.podsFrom(firstPlain, n) }

func (f family) podsFrom(first, n int) []netip.Addr {
	addresses := make([]netip.Addr, n)
	for i := range addresses {
		addresses[i] = f.pod(first + i)
	}
	return addresses
}
