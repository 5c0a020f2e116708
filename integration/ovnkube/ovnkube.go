// Package ovnkube has the commands by which OVN-Kubernetes gives pods an egress address on a secondary
// link, for measurements beside egress-ip: a source rule and a rule in an iptables chain for each pod.
// Its controllers, and what they repair, are not there.
package ovnkube

import (
	"fmt"
	"net/netip"

	"github.com/egress-ip/egress-ip/pkg/config"
)

// Chain is the chain of table nat that translates pods' sources.
const Chain = "OVN-KUBE-EGRESS-IP-MULTI-NIC"

// Link is an egress link in one address family.
type Link struct {
	Name    string
	Table   int    // of routes
	Network string // the link's own
	Gateway string // without one the link's table has what it had up to version 4.15.9; with one, what it has since
}

// Routes fills the link's table, as `ip -batch` reads it.
func (l Link) Routes() string {
	if l.Gateway == "" {
		return fmt.Sprintf("route replace default dev %s table %d\n", l.Name, l.Table)
	}
	return fmt.Sprintf("route replace %s dev %s table %d\nroute replace default via %s dev %s table %d\n",
		l.Network, l.Name, l.Table, l.Gateway, l.Name, l.Table)
}

// Rule takes a pod's packets to the link, as `ip -batch` reads it behind "rule add " or "rule del ".
func (l Link) Rule(pod netip.Addr) string {
	return fmt.Sprintf("priority %d from %s lookup %d\n", config.DefaultRulePriority, pod, l.Table)
}

// NewChain makes the chain, as iptables-restore reads it.
const NewChain = "*nat\n:" + Chain + " - [0:0]\n-A POSTROUTING -j " + Chain + "\n"

// Translation translates a pod's source, as iptables-restore reads it behind "-A " or "-D ".
func (l Link) Translation(pod, egress netip.Addr) string {
	return fmt.Sprintf("%s -s %s/%d -o %s -j SNAT --to-source %s\n", Chain, pod, pod.BitLen(), l.Name, egress)
}
