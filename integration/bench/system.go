package main

import (
	"fmt"

	"github.com/egress-ip/egress-ip/pkg/nettest"
)

// system is a way to give pods their egress, or a variant of one.
type system struct {
	label  string
	attach func(*scope, *node)
	// arrive says how an annotated pod's packet leaves the node.
	arrive  func(family) arrival
	base    bool // what all are compared with; of several it is the median
	dropped bool // the node drops the packets as they come in
}

func byEgress(f family) arrival { return arrival{nettest.SecondLink, f.egress} }

func byPrimary(f family) arrival { return arrival{nettest.PrimaryLink, f.primary} }

func byEgressUntranslated(family) arrival { return arrival{nettest.SecondLink, ""} }

func attachNothing(*scope, *node) {}

// peers are what a node may do its egress with.
var peers = []system{
	{label: "no egress system", attach: attachNothing, arrive: byPrimary, base: true},
	{label: "egress-ip", attach: attachOurs, arrive: byEgress},
	{label: "egress-ip, nftables flushed", attach: attachFlushed, arrive: byEgressUntranslated},
	{label: "OVN-Kubernetes' scheme", attach: attachOVN, arrive: byEgress},
	{label: "(sending alone)", attach: attachNothing, arrive: byPrimary, dropped: true},
}

// attachFlushed is egress-ip when somebody has flushed its table: the source rules are left.
func attachFlushed(s *scope, n *node) {
	attachOurs(s, n)
	n.run(s, "", "nft", "delete", "table", "inet", "egress_ip")
}

// build makes a node for each system.
func build(s *scope, systems []system, pods int, o options) []*node {
	wire := nettest.New(s, "wire")
	nodes := make([]*node, len(systems))
	for i, system := range systems {
		nodes[i] = newNode(s, wire, i, fmt.Sprintf("%s, %d pods", system.label, pods), pods, o)
		system.attach(s, nodes[i])
	}
	return nodes
}
