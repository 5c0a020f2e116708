package config

import "encoding/json"

// The types below are the table of an entry's keys. The parser reads into them, its messages
// list their keys, and conflist-examples/entry.schema.json is generated from them: a key's
// comment is its description there, and its tags say what a Go type does not. In the tag
// schema are the definition in schema_test.go that a string, or each string of a list,
// follows; "required"; and the length of a list, "min=1" or "max=2". The tag default is what
// the parser takes where the key is omitted.
//
//go:generate go test . -run TestSchemaIsCurrent -update

// wireCall is what libcni and the runtime add to an entry.
type wireCall struct {
	// The version of the CNI specification. The runtime copies it from the list.
	CNIVersion string `json:"cniVersion"`
	// What the runtime passes for `capabilities`, the pod's annotations for example. Not for a file.
	Runtime map[string]json.RawMessage `json:"runtimeConfig"`
	// The result of the plugin before this one. The runtime adds it; not for a file.
	PrevResult json.RawMessage `json:"prevResult"`
}

// wire is the JSON as a runtime writes it; the keys that are not ours are in the CNI
// specification.
type wire struct {
	wireCall
	// The name of the network. The runtime copies it from the list.
	Name string `json:"name"`
	// The plugin's binary. `egress-ip install --entry` adds it where it is missing.
	Type string `json:"type" schema:"type"`
	// What the runtime is to pass on. Without `"io.kubernetes.cri.pod-annotations": true` it passes no
	// annotations, and every pod is plain. `egress-ip install --entry` adds `capabilities` where it is missing.
	Capabilities map[string]bool `json:"capabilities"`
	// Arguments for plugins, of the CNI specification. egress-ip ignores them.
	Args json.RawMessage `json:"args"`
	// egress-ip assigns no addresses to pods; `ipam` belongs to the plugin that does.
	IPAM json.RawMessage `json:"ipam" schema:"empty"`
	// egress-ip configures no DNS; `dns` belongs to the plugin that does.
	DNS json.RawMessage `json:"dns" schema:"empty"`

	// The links that may carry egress, and who may use them. Without any, egress-ip only installs the probe table.
	Links []wireLink `json:"links"`
	// Egress for namespaces whose pods have no annotation of egress-ip's. The first element with a matching namespace applies to such
	// a pod, as if the pod had these annotations; one without `address` and `link` leaves it plain. `allow` decides as it does for annotations.
	Defaults []wireDefault `json:"defaults"`
	// Destinations that never leave by the egress link: pods, Services, nodes. For an address family of which none is
	// listed: every route of the main table that is neither a default route nor on the egress link.
	ClusterCIDRs []string `json:"clusterCIDRs" schema:"clusterNetwork"`
	// Priority of the source rules. The two below and the one above are reserved too.
	RulePriority *int64 `json:"rulePriority"`
	// The routes of a link are in the table tableBase + its ifindex.
	TableBase *int64 `json:"tableBase"`
	// Bits of the packet mark that belong to egress-ip: one run of two bits or more, apart from kube-proxy's 0xc000 and
	// portmap's 0x2000. A change takes effect once the node has no annotated pod.
	MarkMask *string `json:"markMask" schema:"mask" default:"0x0f000000"`
	// Bits of other programs' packet marks that these always match with a mask, as kube-proxy does with 0xc000. None of markMask.
	MaskedMarks *string `json:"maskedMarks" schema:"mask" default:"0"`
	// Count the packets and bytes that each pod sends to its link, from the pod's start, for `egress-ip status`. Needs sourceCheck.
	Counters *bool `json:"counters" default:"false"`
	// Accept a packet with an annotated pod's source only from where the pod is. With `false` a pod with CAP_NET_RAW can
	// send with other pods' egress addresses.
	SourceCheck *bool `json:"sourceCheck" default:"true"`
	// The table that lets health probes of an IPv6 load balancer, which have a link-local source, reach pods.
	ProbeSNAT wireProbe `json:"probeSNAT"`
}

// A link, or several by a glob, that may carry egress.
type wireLink struct {
	// The link's name, or a glob. A glob means the one link whose network contains the address. Omitted: the link whose
	// network contains the address, longest prefix first.
	Name *string `json:"name" schema:"linkPattern"`
	// Next hops of the link's default route, at most one per address family, for a link for which the main table has
	// none. Omitted: a default route without a next hop.
	Gateways []string `json:"gateways" schema:"nextHop,max=2"`
	// Which namespaces may use which addresses. What is not listed is not allowed.
	Allow []wireAllow `json:"allow"`
	// Ask the link whether another host has an egress address before it is added.
	DuplicateCheck *bool `json:"duplicateCheck" default:"true"`
}

// Namespaces, and the addresses that they may use.
type wireAllow struct {
	// Globs of namespaces. `*` matches all, and is the only one that matches where the runtime names no namespace.
	Namespaces []string `json:"namespaces" schema:"glob,required,min=1"`
	// Egress addresses and networks of them. Omitted: only the link's own address.
	Addresses []string `json:"addresses" schema:"network,min=1"`
}

// Namespaces, and what their pods ask for that have no annotation.
type wireDefault struct {
	// Globs of namespaces. `*` matches all, and is the only one that matches where the runtime names no namespace.
	Namespaces []string `json:"namespaces" schema:"glob,required,min=1"`
	// What the annotation egress-ip.cni/address would have.
	Address *string `json:"address" schema:"addresses"`
	// What the annotation egress-ip.cni/link would have.
	Link *string `json:"link" schema:"linkPattern"`
}

type wireProbe struct {
	// When the table exists. `auto`: if the pod or an uplink has a global IPv6 address and no table `ip6 azureSLBProbe` exists.
	Mode *string `json:"mode" schema:"probeMode" default:"auto"`
	// Links on which probes arrive. Omitted: the links with an IPv6 default route.
	Links []string `json:"links" schema:"linkName"`
	// The source of probes as they are sent.
	Source *string `json:"source" schema:"linkLocal" default:"fe80::1234:5678:9abc"`
	// The source of probes as pods see it.
	Translated *string `json:"translated" schema:"globalIPv6" default:"2603:1062:0:1:fe80:1234:5678:9abc"`
}

// numbers are the keys that are whole numbers: between what they must be, and what they are
// where they are omitted.
var numbers = map[string]struct {
	low, high int64
	without   uint32
}{
	// Rule 0 is the kernel's lookup of local, 32766 that of main; and the two priorities
	// below this one have rules of ours.
	"rulePriority": {3, 32765, DefaultRulePriority},
	// Tables below 256 are the kernel's; the ifindex, up to 2^31-1, comes on top.
	"tableBase": {256, 1<<31 - 1, DefaultTableBase},
}

// probeModes are what probeSNAT.mode may be.
var probeModes = []ProbeMode{ProbeAuto, ProbeAlways, ProbeNever}
