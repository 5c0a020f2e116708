package main

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/egress-ip/egress-ip/integration/ovnkube"
	"github.com/egress-ip/egress-ip/pkg/nettest"
)

// attachOVN gives the node's annotated pods their egress as OVN-Kubernetes does
// for a secondary link: a source rule and a rule in an iptables chain a pod.
func attachOVN(s *scope, n *node) {
	for _, f := range families {
		n.AddAddress(s, nettest.SecondLink, fmt.Sprintf("%s/%d", f.egress, f.bits))
		link := ovnkube.Link{Name: nettest.SecondLink, Table: n.secondTable(s), Network: f.network, Gateway: f.gateways[nettest.SecondLink]}
		var ip, iptables strings.Builder
		ip.WriteString(link.Routes())
		iptables.WriteString(ovnkube.NewChain)
		for _, pod := range f.annotated(n.pods) {
			ip.WriteString("rule add " + link.Rule(pod))
			iptables.WriteString("-A " + link.Translation(pod, netip.MustParseAddr(f.egress)))
		}
		iptables.WriteString("COMMIT\n")
		n.run(s, ip.String(), "ip", f.flag, "-batch", "-")
		n.run(s, iptables.String(), f.restore, "--noflush")
	}
}
