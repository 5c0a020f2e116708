// Package egress says what should exist on a node, as plain comparable values.
//
// A request (package config) and what the kernel has (package kernel) go in; an [Attachment] and
// the [State] that it needs come out. Nothing here does I/O.
package egress

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Family is an IP version, 4 or 6.
type Family uint8

// The two address families.
const (
	IPv4 Family = 4
	IPv6 Family = 6
)

// Families lists both, in the order in which they are worked on.
var Families = [...]Family{IPv4, IPv6}

// FamilyOf returns the address family of a valid address.
func FamilyOf(a netip.Addr) Family {
	if a.Is4() {
		return IPv4
	}
	return IPv6
}

func (f Family) String() string { return "IPv" + f.digit() }

func (f Family) digit() string {
	if f == IPv4 {
		return "4"
	}
	return "6"
}

// Default returns the prefix of the default route, 0.0.0.0/0 or ::/0.
func (f Family) Default() netip.Prefix {
	if f == IPv4 {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
}

// Host returns the prefix that holds a alone, a/32 or a/128.
func Host(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// Owner names an attachment as CNI does: a container and its interface.
type Owner struct {
	ContainerID string `json:"containerID"`
	IfName      string `json:"ifName"`
}

// Compare orders owners by container and interface.
func (o Owner) Compare(other Owner) int {
	return cmp.Or(cmp.Compare(o.ContainerID, other.ContainerID), cmp.Compare(o.IfName, other.IfName))
}

// Comment is what the owner's elements have as their comment: the container ID, as far as nft
// lets a comment be long (NFTNL_UDATA_COMMENT_MAXLEN).
func (o Owner) Comment() string { return o.ContainerID[:min(len(o.ContainerID), 128)] }

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
	ClusterCIDRs []netip.Prefix `json:"clusterCIDRs,omitempty"` // as configured, both address families
	Counters     bool           `json:"counters,omitempty"`     // what the flows send to their links is counted
	// Unchecked: a packet with a pod address as its source is the pod's, wherever it
	// comes from (sourceCheck: false).
	Unchecked bool `json:"unchecked,omitempty"`
	// OwnNetworks: the flows leave with their link's own address (the link annotation
	// alone), whichever it has, as long as that is in one of these. None: an address is named.
	OwnNetworks []netip.Prefix `json:"ownNetworks,omitempty"`
	Flows       []Flow         `json:"flows"`
	// Ending: its DEL has begun, so nothing is to exist for it. The name of its file says so.
	Ending bool `json:"-"`
}

// Flow is one pod address and where it leaves.
type Flow struct {
	Pod     netip.Addr `json:"pod"`
	Address netip.Addr `json:"address"` // the egress address
	Link    string     `json:"link"`
	Index   int        `json:"ifindex"`
	Table   uint32     `json:"table"`
	Mark    uint32     `json:"mark"`    // the link's, within the attachment's MarkMask
	Gateway netip.Addr `json:"gateway"` // as configured; zero: none for this address family
	// In is the ifindex of the link of the node by which the pod's packets arrive: the
	// pod's veth, or the bridge that it is a port of. 0: not known, so not checked.
	In int `json:"in,omitempty"`
	// MAC is the pod's link-layer address, as net.HardwareAddr prints it, where In is a
	// bridge, which tells its pods apart by nothing else.
	MAC string `json:"mac,omitempty"`
	// VRFRule is the priority of the rule for VRFs, where the link is in one: ours for the
	// link come before it. 0: it is in none.
	VRFRule uint32 `json:"vrfRule,omitempty"`
	// OwnsAddress: no link had the address before egress-ip added it.
	// Every attachment that shares the address says the same.
	OwnsAddress bool `json:"ownsAddress"`
}

// Family returns the address family of the pod and the egress address.
func (f Flow) Family() Family { return FamilyOf(f.Pod) }

// TableKey says in which address family of which table the flow's packets are looked up.
func (f Flow) TableKey() TableKey { return TableKey{f.Table, f.Family()} }

// PodThrow returns the route that sends packets for the pod itself, once they
// look into the link's table, on to main, where the way to the pod is.
func (f Flow) PodThrow() Route { return throw(f.Table, Host(f.Pod)) }

// HostAddress returns the egress address as it is on the link.
func (f Flow) HostAddress() Address { return Address{Link: f.Index, Address: f.Address} }

// Table returns what the flow says about its link's table.
func (a Attachment) Table(f Flow) Table {
	return Table{Table: f.Table, Link: f.Link, Index: f.Index, Family: f.Family(), Gateway: f.Gateway, Cluster: a.clusterOf(f.Family())}
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

// Validate reports what an attachment that was read lacks, or has that no ADD gave it.
func (a Attachment) Validate() error {
	if len(a.Flows) == 0 {
		return errors.New("it has no flows")
	}
	if a.RulePriority == 0 || a.MarkMask == 0 {
		return errors.New("it has no rulePriority or no markMask")
	}
	for _, f := range a.Flows {
		switch {
		case !f.Pod.IsValid() || !f.Address.IsValid() || FamilyOf(f.Pod) != FamilyOf(f.Address):
			return fmt.Errorf("pod %q and address %q are not two addresses of one address family", f.Pod, f.Address)
		case f.Link == "" || f.Index <= 0 || f.Table == 0:
			return fmt.Errorf("the flow of pod %s has no link, ifindex or table", f.Pod)
		case f.Mark == 0 || f.Mark&^a.MarkMask != 0:
			return fmt.Errorf("the flow of pod %s has the mark %#x, which is none of markMask %#x", f.Pod, f.Mark, a.MarkMask)
		}
	}
	return nil
}

// Owners says which of the attachments has each pod address: an address has one pod at a
// time, and where several claim one it is the newest's.
func Owners(attachments []Attachment) map[netip.Addr]Owner {
	owners, since := make(map[netip.Addr]Owner, len(attachments)), make(map[netip.Addr]time.Time, len(attachments))
	for a, f := range Flows(attachments...) {
		other, taken := owners[f.Pod]
		if !taken || cmp.Or(a.Since.Compare(since[f.Pod]), a.Owner.Compare(other)) > 0 {
			owners[f.Pod], since[f.Pod] = a.Owner, a.Since
		}
	}
	return owners
}

// Flows yields the flows of attachments, each with whose it is.
func Flows(attachments ...Attachment) iter.Seq2[Attachment, Flow] {
	return func(yield func(Attachment, Flow) bool) {
		for _, a := range attachments {
			for _, f := range a.Flows {
				if !yield(a, f) {
					return
				}
			}
		}
	}
}

// OwnFlows yields those flows whose pod address no newer attachment has.
func OwnFlows(attachments []Attachment) iter.Seq2[Attachment, Flow] {
	return func(yield func(Attachment, Flow) bool) {
		owners := Owners(attachments)
		for a, f := range Flows(attachments...) {
			if owners[f.Pod] == a.Owner && !yield(a, f) {
				return
			}
		}
	}
}

// Pods returns the pod addresses of attachments.
func Pods(attachments ...Attachment) []netip.Addr {
	var pods []netip.Addr
	for _, f := range Flows(attachments...) {
		pods = append(pods, f.Pod)
	}
	return pods
}

// Shape is a text that two attachments have in common if they need the same objects, those
// aside that are a pod's own: then one of them can speak for both.
func (a Attachment) Shape() (string, error) {
	a.Owner, a.Network, a.PodNamespace, a.PodName, a.Since, a.Origin = Owner{}, "", "", "", time.Time{}, ""
	a.Flows = slices.Clone(a.Flows)
	for i, f := range a.Flows {
		a.Flows[i] = a.shape(f)
	}
	text, err := json.Marshal(a)
	return string(text), err
}

// shape is what a flow has in common with those that need the same: where a pod is decides about
// its own element alone, whether it is known about a chain.
func (a Attachment) shape(f Flow) Flow {
	f.Pod = f.Family().Default().Addr()
	if f.In != 0 {
		f.In = 1
	}
	if f.MAC != "" {
		f.MAC = "known"
	}
	return f
}

// Named returns the attachments of the pod that a person means: namespace/name, an
// address of the pod, or its container ID or a beginning of it. They are of one
// container; errors say which there are.
func Named(all []Attachment, name string) ([]Attachment, error) {
	found := slices.DeleteFunc(slices.Clone(all), func(a Attachment) bool { return !a.isNamed(name) })
	if slices.ContainsFunc(found, func(a Attachment) bool { return a.ContainerID == name }) {
		found = slices.DeleteFunc(found, func(a Attachment) bool { return a.ContainerID != name })
	}
	switch {
	case slices.ContainsFunc(found, func(a Attachment) bool { return a.ContainerID != found[0].ContainerID }):
		return nil, fmt.Errorf("%q may mean each of these: %s; name one by its container ID", name, list(found))
	case len(found) > 0:
		return found, nil
	case len(all) == 0:
		return nil, fmt.Errorf("no pod on this node has egress, so there is no %q", name)
	}
	return nil, fmt.Errorf("no pod with egress is %q on this node; there are %s", name, list(all))
}

func (a Attachment) isNamed(name string) bool {
	const shortest = 8 // of a container ID, as much is enough to mean it
	if address, err := netip.ParseAddr(name); err == nil {
		return slices.Contains(Pods(a), address.Unmap())
	}
	if strings.Contains(name, "/") {
		return name == a.PodNamespace+"/"+a.PodName
	}
	return name == a.ContainerID || len(name) >= shortest && strings.HasPrefix(a.ContainerID, name)
}

// list names attachments for a person, not all where they are many.
func list(all []Attachment) string {
	const most = 10
	var names []string
	for _, a := range all[:min(len(all), most)] {
		names = append(names, a.Title())
	}
	if len(all) > most {
		names = append(names, fmt.Sprintf("%d more", len(all)-most))
	}
	return strings.Join(names, ", ")
}

// Title names the attachment: the pod, its addresses that have egress, its container.
func (a Attachment) Title() string {
	var words []string
	if a.PodName != "" {
		words = append(words, a.PodNamespace+"/"+a.PodName)
	}
	for _, pod := range Pods(a) {
		words = append(words, pod.String())
	}
	return fmt.Sprintf("%s (container %s)", strings.Join(words, " "), a.ContainerID)
}
