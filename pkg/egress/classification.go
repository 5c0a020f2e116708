package egress

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Chain is a chain of the table inet egress_ip. Those that set a mark set Mark
// within Mask; of Prerouting Mask is the bits in which somebody else's mark shows, of
// the other hooked ones those that are egress-ip's; the others have neither.
type Chain struct {
	Name               string
	Mark, Mask         uint32
	Cluster4, Cluster6 string // of a link's chains that ask for it: the sets of destinations that stay off the link
}

// The chains that all links share.
const (
	Prerouting  = "prerouting"
	Output      = "output"
	Postrouting = "postrouting"
	Exit        = "exit"
	Others      = "others"
	Inbound     = "inbound"
	Inside      = "inside"
	Forged      = "forged"
	Unmarked    = "unmarked"
	Dropped     = "dropped"
	Related     = "related"
)

// The beginnings of the names of a link's chains, which end with its ifindex.
const (
	outPrefix       = "out_"       // what a pod sends, if it arrives by the pod's own link
	bridgedPrefix   = "bridged_"   // the same, if it has the pod's MAC address
	uncheckedPrefix = "unchecked_" // the same, wherever it arrives
	backPrefix      = "back_"      // what comes back by the link
	markPrefix      = "mark_"      // marks what belongs to the link, however it was found out
	exitPrefix      = "exit_"      // where what has no mark of ours, and is of a pod of the link, leaves
)

func linkChain(prefix string, index int) string { return prefix + strconv.Itoa(index) }

// linkPrefixes are those of all chains that a link can have, those that go to others first.
var linkPrefixes = []string{outPrefix, bridgedPrefix, uncheckedPrefix, backPrefix, markPrefix, exitPrefix}

// LinkChains are all chains that a link can have, those that go to others first.
func LinkChains(index int) []string {
	var names []string
	for _, prefix := range linkPrefixes {
		names = append(names, linkChain(prefix, index))
	}
	return names
}

// LinkOf returns the ifindex of the link whose chain, or set, this is.
func LinkOf(name string) (index int, ok bool) {
	i := strings.IndexByte(name, '_') + 1
	n, err := strconv.ParseUint(name[i:], 10, 31)
	return int(n), err == nil && (slices.Contains(linkPrefixes, name[:i]) || name[:i] == "cluster4_" || name[:i] == "cluster6_")
}

// IsShared reports whether the chain is for packets of all links.
func (c Chain) IsShared() bool {
	_, ofLink := LinkOf(c.Name)
	return !ofLink
}

// ChecksMAC reports whether a packet is a pod's by its link-layer address there.
func (c Chain) ChecksMAC() bool { return strings.HasPrefix(c.Name, bridgedPrefix) }

// ChecksNothing reports whether a packet is a pod's by its source alone there.
func (c Chain) ChecksNothing() bool { return strings.HasPrefix(c.Name, uncheckedPrefix) }

// IsBack reports whether the chain is for what comes back by a link.
func (c Chain) IsBack() bool { return strings.HasPrefix(c.Name, backPrefix) }

// IsExit reports whether the chain is for what leaves without a mark of ours.
func (c Chain) IsExit() bool { return strings.HasPrefix(c.Name, exitPrefix) }

// IsMark reports whether the chain only marks.
func (c Chain) IsMark() bool { return strings.HasPrefix(c.Name, markPrefix) }

// Hooked reports whether packets come to the chain from the kernel, not from
// another chain.
func (c Chain) Hooked() bool {
	return slices.Contains([]string{Prerouting, Output, Postrouting, Exit}, c.Name)
}

// String names the chain.
func (c Chain) String() string { return "chain " + c.Name + " of table inet egress_ip" }

// The maps and sets of an address family in the table inet egress_ip.
func (f Family) Out() string     { return "out" + f.digit() }     // pod : goto out_N
func (f Family) Back() string    { return "back" + f.digit() }    // pod : goto back_N
func (f Family) SNAT() string    { return "snat" + f.digit() }    // pod . link : egress address
func (f Family) Exit() string    { return "exit" + f.digit() }    // egress address . link
func (f Family) Guard() string   { return "guard" + f.digit() }   // pod : goto exit_N
func (f Family) Pods() string    { return "pods" + f.digit() }    // pod . link by which its packets arrive
func (f Family) Bridged() string { return "bridged" + f.digit() } // pod . MAC address
func (f Family) Arrived() string { return "arrived" + f.digit() } // address of a link : goto mark_N
func (f Family) Cluster() string { return "cluster" + f.digit() } // networks

// ClusterOf is the set of networks that is one link's, where the configuration names none.
func (f Family) ClusterOf(index int) string { return linkChain(f.Cluster()+"_", index) }

// Drops has the pods of which the guard has dropped packets in the last minutes, with
// the link by which they would have left;
// Forgeries those whose source somebody else has forged, with the link by which that arrived.
func (f Family) Drops() string     { return "dropped" + f.digit() }
func (f Family) Forgeries() string { return "forged" + f.digit() }

// UnmarkedMap is the map { 0 : goto others }, of both address families.
const UnmarkedMap = "unmarked"

// LinkSet is the set of the egress links, of both address families.
const LinkSet = "links"

// Element is an element of a map or set of the table inet egress_ip.
type Element struct {
	Set     string
	Pod     netip.Addr   // the key, or its first half
	Link    int          // ifindex: the key's second half, or, in LinkSet, the key
	MAC     string       // Bridged: the key's second half
	Net     netip.Prefix // Cluster: the key
	Chain   string       // where a verdict map goes to
	Address netip.Addr   // SNAT: the value; Exit, Arrived: the key, or its first half
	Owner   string       // the comment: the container ID
	Counted bool         // the element has a counter
}

// host is the address in the element's key.
func (e Element) host() netip.Addr {
	if e.Pod.IsValid() {
		return e.Pod
	}
	return e.Address
}

// String gives the element as nft prints it, without the comment, and where it is.
func (e Element) String() string { return e.text(Unnamed) }

func (e Element) text(name LinkName) string {
	var key []string
	if host := e.host(); host.IsValid() {
		key = append(key, host.String())
	}
	value := ""
	switch {
	case e.Net.IsValid():
		key = []string{e.Net.String()}
	case e.Set == UnmarkedMap:
		key = []string{"0"}
	case e.Address.IsValid() && e.Pod.IsValid():
		value = e.Address.String()
	}
	if e.Link != 0 {
		key = append(key, strconv.Quote(name(e.Link)))
	}
	if e.MAC != "" {
		key = append(key, e.MAC)
	}
	if e.Chain != "" {
		value = "goto " + e.Chain
	}
	kind, what := "set", strings.Join(key, " . ")
	if value != "" {
		kind, what = "map", what+" : "+value
	}
	return fmt.Sprintf("element { %s } of %s %s in table inet egress_ip", what, kind, e.Set)
}

// checked says how it is told that a packet is the pod's: the beginning of the name of the chain
// that classifies what the pod sends by a flow.
func (a Attachment) checked(f Flow) string {
	switch {
	case a.Unchecked || f.In == 0:
		return uncheckedPrefix
	case f.MAC != "":
		return bridgedPrefix
	}
	return outPrefix
}

// elementsOfFlow is how many elements a flow has at most that are its own.
const elementsOfFlow = 5

// elements appends what a flow has, and no other, in each of its address family's maps and sets.
// One without an address to leave with is not translated, and so not let out.
func (a Attachment) elements(f Flow, without bool, elements []Element) []Element {
	of, checked := f.Family(), a.checked(f)
	add := func(e Element) {
		e.Pod, e.Owner = f.Pod, a.Comment()
		elements = append(elements, e)
	}
	add(Element{Set: of.Out(), Chain: linkChain(checked, f.Index)})
	add(Element{Set: of.Back(), Chain: linkChain(backPrefix, f.Index)})
	add(Element{Set: of.Guard(), Chain: linkChain(exitPrefix, f.Index)})
	if !without {
		add(Element{Set: of.SNAT(), Link: f.Index, Address: f.Address})
	}
	switch checked {
	case outPrefix:
		add(Element{Set: of.Pods(), Link: f.In, Counted: a.Counters})
	case bridgedPrefix:
		add(Element{Set: of.Bridged(), MAC: f.MAC, Counted: a.Counters})
	}
	return elements
}

// UnmarkedElement is what the map UnmarkedMap has.
func UnmarkedElement() Element { return Element{Set: UnmarkedMap, Chain: Others} }

// arrivedElement says that connections to an address of a link are answered by the link.
func arrivedElement(a Address) Element {
	return Element{Set: FamilyOf(a.Address).Arrived(), Address: a.Address, Chain: linkChain(markPrefix, a.Link)}
}

// ClusterElements returns the elements of the sets of the cluster's networks. A network inside
// another is left out: nf_tables takes no overlaps.
func ClusterElements(networks []netip.Prefix) []Element {
	var elements []Element
	for _, p := range disjoint(networks) {
		elements = append(elements, Element{Set: FamilyOf(p.Addr()).Cluster(), Net: p})
	}
	return elements
}

// linkChains returns the chains that a flow's link has, each before those that go to it. Asking has
// the sets of the destinations that stay off the link.
func (a Attachment) linkChains(f Flow, asking Chain) []Chain {
	asking.Name = linkChain(exitPrefix, f.Index)
	return []Chain{
		{Name: linkChain(markPrefix, f.Index), Mark: f.Mark, Mask: a.MarkMask},
		{Name: linkChain(backPrefix, f.Index), Mark: f.Mark, Mask: a.MarkMask},
		asking,
	}
}

// outChain returns the one that classifies what the pod sends by a flow.
func (a Attachment) outChain(f Flow, asking Chain) Chain {
	asking.Name, asking.Mark, asking.Mask = linkChain(a.checked(f), f.Index), f.Mark, a.MarkMask
	return asking
}

// withShared returns the chains of links with those that all share around them, each before those
// that go to it: what drops comes before what lets packets get so far. The mark bits are those of
// an attachment.
func withShared(chains []Chain, of Attachment) []Chain {
	// kube-proxy's two, 0x4000 and 0x8000, are always matched with a mask, and so are those
	// that are configured: they show nobody else's mark.
	foreign, mask := ^(0xc000 | of.MaskedMarks), of.MarkMask
	return slices.Concat(
		[]Chain{{Name: Others, Mark: mask, Mask: mask}, {Name: Inbound}, {Name: Forged}, {Name: Dropped}, {Name: Related}, {Name: Inside}},
		chains,
		[]Chain{{Name: Unmarked}, {Name: Exit, Mask: mask}, {Name: Prerouting, Mask: foreign}, {Name: Output, Mask: mask}, {Name: Postrouting, Mask: mask}})
}

// Held is what a second guard has to know, one that no flush of nftables takes away: with
// which addresses pods may leave by which links, and where they are: a pod that gets another one's address
// is elsewhere, and is none of these.
type Held struct {
	Mask    uint32    // the mark bits of egress-ip
	Pods    []Element // of [Family.Guard], with the link
	Places  []Element // of [Family.Pods] and [Family.Bridged]
	Exits   []Element // of [Family.Exit]
	Wrong   []Element // of [Family.Wrong]: what they must not leave with by their links
	Cluster []Element // of [Family.Cluster]: what is the cluster's for any link; none is inside another
}

// Wrong is the set of the addresses, each at a link, with which a link's pods do not leave.
func (f Family) Wrong() string { return "wrong" + f.digit() } // address . link

// Held returns that of a state, where links have these addresses, in an order that is always
// the same.
func (s State) Held(addresses []LinkAddress) Held {
	var h Held
	links, exits := map[int]bool{}, map[Address]bool{}
	var cluster []netip.Prefix
	for _, c := range s.Chains {
		if c.Name == Exit {
			h.Mask = c.Mask
		}
	}
	for _, e := range s.Elements {
		if e.Net.IsValid() {
			cluster = append(cluster, e.Net)
			continue
		}
		switch family := FamilyOf(e.host()); e.Set {
		case family.Guard():
			if link, ok := LinkOf(e.Chain); ok {
				links[link] = true
				h.Pods = append(h.Pods, Element{Set: e.Set, Pod: e.Pod, Link: link})
				h.Wrong = append(h.Wrong, Element{Set: family.Wrong(), Address: e.Pod, Link: link})
			}
		case family.Pods(), family.Bridged():
			h.Places = append(h.Places, Element{Set: e.Set, Pod: e.Pod, Link: e.Link, MAC: e.MAC})
		case family.Exit():
			exits[Address{e.Link, e.Address}] = true
			h.Exits = append(h.Exits, e)
		}
	}
	for _, a := range addresses {
		if own := a.At(); links[own.Link] && !exits[own] {
			h.Wrong = append(h.Wrong, Element{Set: FamilyOf(own.Address).Wrong(), Address: own.Address, Link: own.Link})
		}
	}
	h.Cluster = ClusterElements(cluster)
	for _, all := range [][]Element{h.Pods, h.Places, h.Exits, h.Wrong} {
		slices.SortFunc(all, func(a, b Element) int { return cmp.Or(a.host().Compare(b.host()), cmp.Compare(a.Link, b.Link)) })
	}
	return h
}

// Equal reports whether nothing is to be written where the other has been.
func (h Held) Equal(other Held) bool {
	return h.Mask == other.Mask && slices.Equal(h.Pods, other.Pods) && slices.Equal(h.Places, other.Places) &&
		slices.Equal(h.Exits, other.Exits) && slices.Equal(h.Wrong, other.Wrong) && slices.Equal(h.Cluster, other.Cluster)
}
