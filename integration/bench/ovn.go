package main

import (
	"fmt"
	"strings"

	"github.com/egress-ip/egress-ip/pkg/config"
	"github.com/egress-ip/egress-ip/pkg/nettest"
)

// attachOVN gives the node's annotated pods their egress as OVN-Kubernetes does
// for a secondary link: a source rule and a rule in an iptables chain a pod.
func attachOVN(s *scope, n *node) {
	const chain = "OVN-KUBE-EGRESS-IP-MULTI-NIC"
	table := n.secondTable(s)
	for _, f := range families {
		n.AddAddress(s, nettest.SecondLink, fmt.Sprintf("%s/%d", f.egress, f.bits))
		var ip, iptables strings.Builder
		fmt.Fprintf(&ip, "route add %s dev %s table %d\n", f.network, nettest.SecondLink, table)
		fmt.Fprintf(&ip, "route add default via %s dev %s table %d\n", f.gateways[nettest.SecondLink], nettest.SecondLink, table)
		fmt.Fprintf(&iptables, "*nat\n:%s - [0:0]\n-A POSTROUTING -j %s\n", chain, chain)
		for _, pod := range f.annotated(n.pods) {
			fmt.Fprintf(&ip, "rule add priority %d from %s lookup %d\n", config.DefaultRulePriority, pod, table)
			fmt.Fprintf(&iptables, "-A %s -s %s/%d -o %s -j SNAT --to-source %s\n", chain, pod, f.bits, nettest.SecondLink, f.egress)
		}
		iptables.WriteString("COMMIT\n")
		n.run(s, ip.String(), "ip", f.flag, "-batch", "-")
		n.run(s, iptables.String(), f.restore, "--noflush")
	}
}
