package conflist

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/egress-ip/egress-ip/pkg/config"
)

// UnsuitableError is why egress-ip cannot work in a list, and what to do.
type UnsuitableError struct{ Problem string }

func (e *UnsuitableError) Error() string { return e.Problem }

const (
	bypasses = "its pods' packets go past the node's rules, routes and nftables, so egress-ip could neither route nor translate them; it needs a main plugin whose pods are routed by the node (bridge, ptp, flannel, Calico, ...)"
	alone    = "it gives pods no addresses; name the file of the plugin that does: --conflist FILE"
	multus   = "Multus hands pods' annotations to no plugin that it calls, so no pod would leave by a link; for the probe table alone, name the file of the plugin that Multus delegates to: --conflist FILE"
)

// unsuitable are main plugins behind which egress-ip cannot work.
var unsuitable = map[string]string{
	"macvlan":            bypasses,
	"macvtap":            bypasses,
	"ipvlan":             bypasses,
	"vlan":               bypasses,
	"host-device":        bypasses,
	"sriov":              bypasses,
	"ib-sriov":           bypasses,
	"ib-sriov-cni":       bypasses,
	"accelerated-bridge": bypasses,

	"ovn-k8s-cni-overlay": "OVN-Kubernetes routes and translates pods' packets in Open vSwitch, past the node; use its own EgressIP objects",

	"multus":      multus,
	"multus-shim": multus,

	"loopback": alone,
	"dummy":    alone,
	Type:       "egress-ip is the first plugin, and nothing before it gives pods their addresses; put the main plugin before it",
}

// Suits returns an [UnsuitableError] where egress-ip, which speaks these CNI
// versions, cannot work in the list.
func (l List) Suits(versions []string) error {
	for _, main := range l.mains() {
		if problem, ok := unsuitable[main]; ok {
			return &UnsuitableError{fmt.Sprintf("its main plugin is %s: %s", main, problem)}
		}
	}
	if !slices.Contains(versions, l.Version) {
		return &UnsuitableError{fmt.Sprintf("its cniVersion is %q, and egress-ip speaks %s; before, runtimes do not hand a plugin's result to the next one. Change it there if the other plugins speak one of these",
			cmp.Or(l.Version, "0.1.0"), strings.Join(versions, ", "))}
	}
	return nil
}

// mains are the type of the main plugin, and that of the one which flannel's calls.
func (l List) mains() []string {
	var m struct{ Delegate struct{ Type string } }
	_ = json.Unmarshal(l.Main().Text, &m) // whatever else delegate may be to other plugins
	return slices.DeleteFunc([]string{l.Main().Type, m.Delegate.Type}, func(s string) bool { return s == "" })
}

// Warnings are of what works, but maybe not as expected.
func (l List) Warnings() []string {
	var warnings []string
	var m struct {
		IsGateway        bool `json:"isGateway"`
		IsDefaultGateway bool `json:"isDefaultGateway"`
	}
	gateway := json.Unmarshal(l.Main().Text, &m) != nil || m.IsGateway || m.IsDefaultGateway
	switch main := l.Main().Type; {
	case main == "bridge" && !gateway:
		warnings = append(warnings, "the bridge plugin has no isGateway: if pods' router is another machine on the bridge, their packets go past the node's rules, and past egress-ip")
	case main == "cilium-cni":
		warnings = append(warnings, "Cilium is the main plugin: unless it is set to bpf.hostLegacyRouting=true and bpf.masquerade=false, it forwards and translates pods' packets itself, past egress-ip")
	}
	return warnings
}

// lastBeforeAWS is the highest rulePriority whose rules, the one behind included, come
// before the AWS VPC CNI's at 1024 and 1536 (amazon-vpc-cni-k8s, pkg/networkutils).
const lastBeforeAWS = 1022

// markers are plugins whose agents set bits of packets' marks.
var markers = map[string]struct {
	bits   uint32
	whose  string
	remedy string
}{
	"calico": {
		0xffff0000, "Calico's Felix may take for itself (iptablesMarkMask, nftablesMarkMask)",
		`set "markMask": "0x00000f00" in the entry, or take these bits from Felix`,
	},
	"cilium-cni": {
		0xffff1f00, "Cilium uses",
		`set "markMask": "0x000000f0" in the entry, and enableIdentityMark=false in Cilium`,
	},
	"aws-cni": {0x80, "the AWS VPC CNI uses", `choose another "markMask"`},
}

// Beside returns an [UnsuitableError] where another plugin's rules would make annotated
// pods leave otherwise than this entry says, and warnings of what may.
func (l List) Beside(c config.Config) (warnings []string, err error) {
	if len(c.Links) == 0 {
		return nil, nil // no pod leaves by a link
	}
	for _, p := range l.Plugins {
		if p.Type == "aws-cni" && c.RulePriority > lastBeforeAWS {
			return nil, &UnsuitableError{fmt.Sprintf(`rulePriority %d: the AWS VPC CNI's own rules, at 1024 and 1536, come before egress-ip's, and annotated pods would leave with the node's address; set "rulePriority": 600 in the entry, in a file for --entry`, c.RulePriority)}
		}
		if m, ok := markers[p.Type]; ok && c.MarkMask&m.bits != 0 {
			warnings = append(warnings, fmt.Sprintf("markMask %#08x has bits of %#08x, which %s: %s", c.MarkMask, m.bits, m.whose, m.remedy))
		}
	}
	return warnings, nil
}
