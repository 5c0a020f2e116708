package egress

import (
	"net/netip"
)

// Classification is what one flow has in the table inet egress_ip: which link its
// packets are for, which source they get there, and where the pod is. Elements of
// maps and sets make it, with the owner as their comment.
type Classification struct {
	Pod     netip.Addr
	Index   int // ifindex of the egress link
	Mark    uint32
	Address netip.Addr
	In      int    // ifindex of the link by which the pod's packets arrive; 0: not known
	MAC     string // the pod's, where In is a bridge
	Check   bool   // drop what has the pod's source and comes from elsewhere
	Owner   string // the container ID
	Counted bool
}

// maxComment is how long nft lets a comment be (NFTNL_UDATA_COMMENT_MAXLEN).
const maxComment = 128

// Comment is what the owner's elements have as their comment: the container ID.
func (o Owner) Comment() string { return o.ContainerID[:min(len(o.ContainerID), maxComment)] }

// Classification returns that of the flow.
func (a Attachment) Classification(f Flow) Classification {
	return Classification{
		Pod: f.Pod, Index: f.Index, Mark: f.Mark, Address: f.Address,
		In: f.In, MAC: f.MAC, Check: !a.Unchecked && f.In != 0,
		Owner: a.Comment(), Counted: a.Counters,
	}
}

// elementsOfFlow is how many elements a flow has at the most.
const elementsOfFlow = 5

// appendElements appends what the flow has in each of its address family's maps and
// sets. Of these [Family.Exit] may be another flow's, too.
func (c Classification) appendElements(elements []Element) []Element {
	f := FamilyOf(c.Pod)
	elements = append(elements,
		Element{Set: f.Out(), Pod: c.Pod, Chain: c.out().name(c.Index), Owner: c.Owner},
		Element{Set: f.Back(), Pod: c.Pod, Chain: BackChain(c.Index), Owner: c.Owner},
		Element{Set: f.Guard(), Pod: c.Pod, Chain: ExitChain(c.Index), Owner: c.Owner},
		Element{Set: f.SNAT(), Pod: c.Pod, Link: c.Index, Address: c.Address, Owner: c.Owner})
	switch c.out() {
	case routed:
		elements = append(elements, Element{Set: f.Pods(), Pod: c.Pod, Link: c.In, Owner: c.Owner, Counted: c.Counted})
	case bridged:
		elements = append(elements, Element{Set: f.Bridged(), Pod: c.Pod, MAC: c.MAC, Owner: c.Owner, Counted: c.Counted})
	}
	return elements
}

// exit is shared by all flows with this address on this link.
func (c Classification) exit() Element {
	return Element{Set: FamilyOf(c.Pod).Exit(), Link: c.Index, Address: c.Address}
}

// outKind says how a packet that claims to be a pod's is checked.
type outKind string

const (
	routed    outKind = "out_"       // it arrives by the pod's own link
	bridged   outKind = "bridged_"   // it has the pod's MAC address
	unchecked outKind = "unchecked_" // not at all
)

func (k outKind) name(index int) string { return linkChain(string(k), index) }

// out is where what the pod sends is classified.
func (c Classification) out() outKind {
	switch {
	case !c.Check:
		return unchecked
	case c.MAC != "":
		return bridged
	}
	return routed
}

// Classes is all that a call has to say about the table inet egress_ip.
type Classes struct {
	Mask    uint32
	Foreign uint32         // bits in which somebody else's mark shows
	Cluster []netip.Prefix // as configured, both address families
	// Derived are the tables of links. Where Cluster has nothing of an address family,
	// what they throw is the cluster's.
	Derived []Table
	Pods    []Classification
	Arrived []Address // the addresses of the links: connections to them are answered by the link
}

// foreignMarks are the mark bits in which somebody else's mark shows. kube-proxy's two,
// 0x4000 and 0x8000, do not count, nor do those that are configured: they are always
// matched with a mask.
func (a Attachment) foreignMarks() uint32 { return ^(0xc000 | a.MaskedMarks) }

// Chains returns the chains that the classes need, each before those that go to it.
func (c Classes) Chains() []Chain {
	chains := []Chain{{Name: Others, Mark: c.Mask, Mask: c.Mask}, {Name: Inbound}, {Name: Forged}, {Name: Dropped}, {Name: Related}, {Name: Inside}}
	links, outs := map[int]bool{}, map[string]bool{}
	for _, p := range c.Pods {
		if !links[p.Index] {
			links[p.Index] = true
			chains = append(chains,
				Chain{Name: MarkChain(p.Index), Mark: p.Mark, Mask: c.Mask},
				Chain{Name: BackChain(p.Index), Mark: p.Mark, Mask: c.Mask},
				Chain{Name: ExitChain(p.Index), Cluster4: c.clusterSet(IPv4, p.Index), Cluster6: c.clusterSet(IPv6, p.Index)})
		}
		if out := p.out().name(p.Index); !outs[out] {
			outs[out] = true
			chains = append(chains, Chain{
				Name: out, Mark: p.Mark, Mask: c.Mask,
				Cluster4: c.clusterSet(IPv4, p.Index), Cluster6: c.clusterSet(IPv6, p.Index),
			})
		}
	}
	// What drops comes before what lets packets get so far.
	return append(chains, Chain{Name: Unmarked}, Chain{Name: Exit, Mask: c.Mask}, Chain{Name: Prerouting, Mask: c.Foreign},
		Chain{Name: Output, Mask: c.Mask}, Chain{Name: Postrouting, Mask: c.Mask})
}

// clusterSet returns the name of the set with the destinations that never leave by a link.
func (c Classes) clusterSet(f Family, index int) string {
	if c.isDerived(f) {
		return f.ClusterOf(index)
	}
	return f.Cluster()
}

// isDerived reports whether the configuration names no cluster networks of a family.
func (c Classes) isDerived(f Family) bool {
	for _, p := range c.Cluster {
		if FamilyOf(p.Addr()) == f {
			return false
		}
	}
	return true
}

// ClusterElements returns the elements of the cluster sets. A prefix inside
// another is left out: nf_tables takes no overlaps.
func (c Classes) ClusterElements() []Element {
	var elements []Element
	for _, p := range Disjoint(c.Cluster) {
		elements = append(elements, Element{Set: FamilyOf(p.Addr()).Cluster(), Net: p})
	}
	for _, t := range c.Derived {
		if !c.isDerived(t.Family) {
			continue
		}
		for _, p := range Disjoint(t.Thrown) {
			elements = append(elements, Element{Set: t.Family.ClusterOf(t.Index), Net: p})
		}
	}
	return elements
}

// SharedElements returns the elements that several pods may need, each once; those of
// the cluster sets aside.
func (c Classes) SharedElements() []Element {
	elements := []Element{UnmarkedElement()}
	links, exits, arrived := map[int]bool{}, map[Element]bool{}, map[netip.Addr]bool{}
	arrive := func(a Address) {
		if !arrived[a.Address] && !a.Address.IsLinkLocalUnicast() {
			arrived[a.Address] = true
			elements = append(elements, ArrivedElement(a))
		}
	}
	for _, p := range c.Pods {
		if !links[p.Index] {
			links[p.Index] = true
			elements = append(elements, LinkElement(p.Index))
		}
		if e := p.exit(); !exits[e] {
			exits[e] = true
			elements = append(elements, e, forgedElement(p.Address))
			arrive(Address{p.Index, p.Address})
		}
	}
	for _, a := range c.Arrived {
		if links[a.Link] {
			arrive(a)
		}
	}
	return elements
}

// forgedElement says that what arrives with an egress address as its source is forged.
func forgedElement(address netip.Addr) Element {
	return Element{Set: FamilyOf(address).Out(), Address: address, Chain: Forged}
}

// ArrivedElement says that connections to an address of a link are answered by the link.
func ArrivedElement(a Address) Element {
	return Element{Set: FamilyOf(a.Address).Arrived(), Address: a.Address, Chain: MarkChain(a.Link)}
}
