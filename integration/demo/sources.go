package main

import (
	"net/netip"

	"github.com/egress-ip/egress-ip/pkg/nettest"
)

// The lab's links as addresses.
var (
	primary4 = netip.MustParseAddr(nettest.PrimaryIPv4)
	primary6 = netip.MustParseAddr(nettest.PrimaryIPv6)
	second4  = netip.MustParseAddr(nettest.SecondIPv4)
)

const addressAnnotation = "egress-ip.cni/address"

// sources is the first act: what the server sees for a plain and for an
// annotated pod.
func sources(t *teller, n *node, plain *pod) {
	t.heading("1. The source address that the server sees")
	const value = "192.168.124.99,fd00:124::99"
	annotated := n.attach(t, "annotated", map[string]string{addressAnnotation: value})

	t.print("   pod         its addresses                    the server sees, over TCP")
	row := func(p *pod, want4, want6 netip.Addr) {
		saw4, saw6 := see(t, p, nettest.ServerAskIPv4), see(t, p, nettest.ServerAskIPv6)
		t.print("   %-11s %-11s %-20s %s", p, p.IPv4, p.IPv6, t.good(saw4.String()+" and "+saw6.String()))
		if saw4 != want4 || saw6 != want6 {
			t.Fatalf("the server should see %s and %s for the pod %s", want4, want6, p)
		}
	}
	row(plain, primary4, primary6)
	row(annotated, netip.MustParseAddr("192.168.124.99"), netip.MustParseAddr("fd00:124::99"))
	t.print("   The annotation is %s: %q. It takes the pod out by enp7s0.", addressAnnotation, value)
	t.print("   The plain pod leaves by eth0, masqueraded by the demo: a stand-in for the main plugin's ipMasq.")
	t.print("   Both were attached by cnitool: the reference plugins bridge and host-local, then egress-ip.")
	n.detach(t, annotated)
}

// see asks a who-am-I server, over TCP, which address the pod has for it.
func see(t *teller, p *pod, server string) netip.Addr {
	t.goOn()
	saw, err := p.Ask("tcp", server)
	t.must(err)
	return saw
}
