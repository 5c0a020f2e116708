package main

import (
	"cmp"
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
	pods    int  // annotated ones; 0: as many as the experiment says
}

func byEgress(f family) arrival { return arrival{nettest.SecondLink, f.egress} }

func byPrimary(f family) arrival { return arrival{nettest.PrimaryLink, f.primary} }

func byEgressUntranslated(family) arrival { return arrival{nettest.SecondLink, ""} }

func attachNothing(*scope, *node) {}

// Labels by which targets name systems.
const (
	bare   = "no egress system"
	ours   = "egress-ip"
	ovn    = "OVN-Kubernetes' scheme"
	onePod = "egress-ip with one pod"
)

// peers are what a node may do its egress with.
var peers = []system{
	{label: bare, attach: attachNothing, arrive: byPrimary, base: true},
	{label: ours, attach: attachOurs, arrive: byEgress},
	{label: "egress-ip, nftables flushed", attach: attachFlushed, arrive: byEgressUntranslated},
	{label: ovn, attach: attachOVN, arrive: byEgress},
	{label: "(sending alone)", attach: attachNothing, arrive: byPrimary, dropped: true},
}

// flatSystems are egress-ip on a node with one pod and on one with many, side by side.
var flatSystems = []system{
	{label: onePod, attach: attachOurs, arrive: byEgress, base: true, pods: 1},
	{label: ours, attach: attachOurs, arrive: byEgress},
}

// attachFlushed is egress-ip when somebody has flushed its table: the source rules are left.
func attachFlushed(s *scope, n *node) {
	attachOurs(s, n)
	n.run(s, "", "nft", "delete", "table", "inet", "egress_ip")
}

// build makes a node for each system.
func (e experiment) build(s *scope, pods int) []*node {
	wire := nettest.New(s, "wire")
	nodes := make([]*node, len(e.systems))
	for i, system := range e.systems {
		its := cmp.Or(system.pods, pods)
		nodes[i] = newNode(s, wire, i, fmt.Sprintf("%s, %d pods", system.label, its), its, e.rpFilter)
		system.attach(s, nodes[i])
	}
	return nodes
}
