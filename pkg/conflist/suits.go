package conflist

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
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
