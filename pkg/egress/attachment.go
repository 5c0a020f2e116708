package egress

import (
	"net/netip"
	"time"
)

// Owner names an attachment as CNI does: a container and its interface.
type Owner struct {
	ContainerID string `json:"containerID"`
	IfName      string `json:"ifName"`
}

// Attachment is one annotated pod: what is recorded, and all that DEL needs.
type Attachment struct {
	Owner
	Network      string         `json:"network"`      // the conflist's name: a GC speaks for one network
	PodNamespace string         `json:"podNamespace"` // empty where the runtime names none
	PodName      string         `json:"podName"`
	Since        time.Time      `json:"since"`            // of the first ADD
	Origin       string         `json:"origin,omitempty"` // the element of defaults that asks for it; empty: annotations
	RulePriority uint32         `json:"rulePriority"`
	MarkMask     uint32         `json:"markMask"`
	MaskedMarks  uint32         `json:"maskedMarks,omitempty"`  // others' bits, beside kube-proxy's
	ClusterCIDRs []netip.Prefix `json:"clusterCIDRs,omitempty"` // as configured, both families
	Counters     bool           `json:"counters,omitempty"`     // what the flows send to their links is counted
	// Unchecked: a packet with a pod address as its source is the pod's, wherever it
	// comes from (sourceCheck: false).
	Unchecked bool `json:"unchecked,omitempty"`
	// OwnNetworks: the flows leave with their link's own address (the link annotation
	// alone), whichever it has, as long as that is in one of these. None: an address is named.
	OwnNetworks []netip.Prefix `json:"ownNetworks,omitempty"`
	Flows       []Flow         `json:"flows"`
}

// Flow is one pod address and where it leaves.
type Flow struct {
	Pod     netip.Addr `json:"pod"`
	Address netip.Addr `json:"address"` // the egress address
	Link    string     `json:"link"`
	Index   int        `json:"ifindex"`
	Table   uint32     `json:"table"`
	Mark    uint32     `json:"mark"`    // the link's, within the attachment's MarkMask
	Gateway netip.Addr `json:"gateway"` // as configured; zero: none for this family
	// In is the ifindex of the link of the node by which the pod's packets arrive: the
	// pod's veth, or the bridge that it is a port of. 0: not known, so not checked.
	In int `json:"in,omitempty"`
	// MAC is the pod's link-layer address, as net.HardwareAddr prints it, where In is a
	// bridge, which tells its pods apart by nothing else.
	MAC string `json:"mac,omitempty"`
	// VRFRule is the priority of the rule for VRFs, where the link is in one: ours for the
	// link come before it. 0: it is in none.
	VRFRule uint32 `json:"vrfRule,omitempty"`
	// OwnsAddress: the address was on no link before egress-ip put it there.
	// Every attachment that shares the address says the same.
	OwnsAddress bool `json:"ownsAddress"`
}

// Family returns the family of the pod and the egress address.
func (f Flow) Family() Family { return FamilyOf(f.Pod) }

// PodThrow returns the route that sends packets for the pod itself, once they
// look into the link's table, on to main, where the way to the pod is.
func (f Flow) PodThrow() Route { return throw(f.Table, Host(f.Pod)) }

// HostAddress returns the egress address as it stands on the link.
func (f Flow) HostAddress() Address { return Address{Link: f.Index, Address: f.Address} }

// TableSpec returns what the flow says about its link's table.
func (a Attachment) TableSpec(f Flow) TableSpec {
	spec := TableSpec{Table: f.Table, Link: f.Link, Index: f.Index, Family: f.Family(), Gateway: f.Gateway}
	spec.Cluster = a.clusterOf(f.Family())
	return spec
}

// clusterOf returns the cluster networks of one address family that the configuration names.
func (a Attachment) clusterOf(family Family) []netip.Prefix {
	var cluster []netip.Prefix
	for _, c := range a.ClusterCIDRs {
		if FamilyOf(c.Addr()) == family {
			cluster = append(cluster, c)
		}
	}
	return cluster
}
