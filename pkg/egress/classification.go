package egress

import (
	"net/netip"
)

// Classification is what one flow has in the table inet egress_ip: which link its
// packets are for, and which source they get there. Elements of maps make it, with
// the owner as their comment.
type Classification struct {
	Pod     netip.Addr
	Link    string
	Index   int // ifindex
	Mark    uint32
	Address netip.Addr
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
		Pod: f.Pod, Link: f.Link, Index: f.Index, Mark: f.Mark, Address: f.Address,
		Owner: a.Comment(), Counted: a.Counters,
	}
}

// elementsOfFlow is how many elements a flow has, uncounted.
const elementsOfFlow = 3

// appendElements appends what the flow has in each of its family's maps.
func (c Classification) appendElements(elements []Element) []Element {
	f := FamilyOf(c.Pod)
	elements = append(elements,
		Element{Set: f.Out(), Pod: c.Pod, Chain: c.out(), Owner: c.Owner},
		Element{Set: f.Back(), Pod: c.Pod, Chain: BackChain(c.Index), Owner: c.Owner},
		Element{Set: f.SNAT(), Pod: c.Pod, Link: c.Link, Address: c.Address, Owner: c.Owner})
	if c.Counted {
		elements = append(elements, Element{Set: f.Sent(), Pod: c.Pod, Owner: c.Owner})
	}
	return elements
}

// out is where what the pod sends is classified.
func (c Classification) out() string {
	if c.Counted {
		return CountedChain(c.Index)
	}
	return OutChain(c.Index)
}

// Classes is all that a call has to say about the table inet egress_ip.
type Classes struct {
	Mask    uint32
	Foreign uint32         // bits in which somebody else's mark shows
	Cluster []netip.Prefix // as configured, both families
	Pods    []Classification
}

// Classes returns what the flows of an attachment have there.
func (a Attachment) Classes(flows ...Flow) Classes {
	c := Classes{Mask: a.MarkMask, Foreign: a.foreignMarks(), Cluster: a.ClusterCIDRs}
	for _, f := range flows {
		c.Pods = append(c.Pods, a.Classification(f))
	}
	return c
}

// foreignMarks are the mark bits in which somebody else's mark shows. kube-proxy's two,
// 0x4000 and 0x8000, do not count, nor do those that are configured: they are always
// matched with a mask.
func (a Attachment) foreignMarks() uint32 { return ^(0xc000 | a.MaskedMarks) }

// Chains returns the chains that the classes need, each before those that go to it.
func (c Classes) Chains() []Chain {
	chains := []Chain{{Name: Others, Mark: c.Mask, Mask: c.Mask}}
	links, counted := map[int]bool{}, map[int]bool{}
	for _, p := range c.Pods {
		if !links[p.Index] {
			links[p.Index] = true
			chains = append(chains,
				Chain{Name: OutChain(p.Index), Mark: p.Mark, Mask: c.Mask},
				Chain{Name: BackChain(p.Index), Mark: p.Mark, Mask: c.Mask})
		}
		if p.Counted && !counted[p.Index] {
			counted[p.Index] = true
			chains = append(chains, Chain{Name: CountedChain(p.Index), Mark: p.Mark, Mask: c.Mask})
		}
	}
	return append(chains, Chain{Name: Prerouting, Mask: c.Foreign}, Chain{Name: Output}, Chain{Name: Postrouting}, Chain{Name: Exit, Mask: c.Mask})
}

// ClusterElements returns the elements of the cluster sets. A prefix inside
// another is left out: nf_tables takes no overlaps.
func (c Classes) ClusterElements() []Element {
	var elements []Element
	for _, p := range Disjoint(c.Cluster) {
		elements = append(elements, Element{Set: FamilyOf(p.Addr()).Cluster(), Net: p})
	}
	return elements
}

// PodElements returns the elements of all pods.
func (c Classes) PodElements() []Element {
	elements := make([]Element, 0, elementsOfFlow*len(c.Pods)+1)
	for _, p := range c.Pods {
		elements = p.appendElements(elements)
	}
	return elements
}
