package egress

import (
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

// The beginnings of the names of a link's chains.
const (
	backPrefix = "back_"
	markPrefix = "mark_"
	exitPrefix = "exit_"
)

func linkChain(prefix string, index int) string { return prefix + strconv.Itoa(index) }

// BackChain is where what comes back by a link is.
func BackChain(index int) string { return linkChain(backPrefix, index) }

// MarkChain marks what belongs to a link, however it was found out.
func MarkChain(index int) string { return linkChain(markPrefix, index) }

// ExitChain is where what has no mark of ours, and is of a link's pod, leaves.
func ExitChain(index int) string { return linkChain(exitPrefix, index) }

// LinkChains are all chains that a link can have, those that go to others first.
func LinkChains(index int) []string {
	return []string{routed.name(index), bridged.name(index), unchecked.name(index), BackChain(index), MarkChain(index), ExitChain(index)}
}

// LinkOf returns the ifindex of the link whose chain, or set, this is.
func LinkOf(name string) (index int, ok bool) {
	prefix, digits, found := strings.Cut(name, "_")
	if !found || !slices.Contains([]string{string(routed), string(bridged), string(unchecked), backPrefix, markPrefix, exitPrefix, "cluster4_", "cluster6_"}, prefix+"_") {
		return 0, false
	}
	n, err := strconv.ParseUint(digits, 10, 31)
	return int(n), err == nil
}

// ChecksMAC reports whether a packet is a pod's by its link-layer address there.
func (c Chain) ChecksMAC() bool { return strings.HasPrefix(c.Name, string(bridged)) }

// ChecksNothing reports whether a packet is a pod's by its source alone there.
func (c Chain) ChecksNothing() bool { return strings.HasPrefix(c.Name, string(unchecked)) }

// IsShared reports whether the chain is for packets of all links.
func (c Chain) IsShared() bool {
	_, ofLink := LinkOf(c.Name)
	return !ofLink
}

// IsBack reports whether the chain is for what comes back by a link.
func (c Chain) IsBack() bool { return strings.HasPrefix(c.Name, backPrefix) }

// IsExit reports whether the chain is for what leaves without a mark of ours.
func (c Chain) IsExit() bool { return strings.HasPrefix(c.Name, exitPrefix) }

// IsMark reports whether the chain only marks.
func (c Chain) IsMark() bool { return strings.HasPrefix(c.Name, markPrefix) }

// String names the chain.
func (c Chain) String() string { return "chain " + c.Name + " of table inet egress_ip" }

// Hooked reports whether packets come to the chain from the kernel, not from
// another chain.
func (c Chain) Hooked() bool {
	return slices.Contains([]string{Prerouting, Output, Postrouting, Exit}, c.Name)
}

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

func (f Family) digit() string {
	if f == IPv4 {
		return "4"
	}
	return "6"
}

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

// UnmarkedElement is what the map UnmarkedMap has.
func UnmarkedElement() Element { return Element{Set: UnmarkedMap, Chain: Others} }

// LinkElement is what LinkSet has of a link.
func LinkElement(index int) Element { return Element{Set: LinkSet, Link: index} }

// String gives the element as nft prints it, without the comment, and where it is.
func (e Element) String() string { return e.Named(Unnamed) }

// Named is String with the link's name.
func (e Element) Named(name LinkName) string {
	var key []string
	if e.Pod.IsValid() {
		key = append(key, e.Pod.String())
	}
	value := ""
	switch {
	case e.Net.IsValid():
		key = []string{e.Net.String()}
	case e.Set == UnmarkedMap:
		key = []string{"0"}
	case e.Address.IsValid() && e.Pod.IsValid():
		value = e.Address.String()
	case e.Address.IsValid():
		key = append(key, e.Address.String())
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

// Disjoint returns the prefixes in order, without those that are inside another.
func Disjoint(prefixes []netip.Prefix) []netip.Prefix {
	var disjoint []netip.Prefix
	for _, p := range slices.SortedFunc(slices.Values(prefixes), netip.Prefix.Compare) {
		if n := len(disjoint); n == 0 || !disjoint[n-1].Overlaps(p) {
			disjoint = append(disjoint, p)
		}
	}
	return disjoint
}

// Subtract returns the prefixes without those of others that are inside them, or equal, as
// prefixes: as with routes, the longest decides.
func Subtract(prefixes, others []netip.Prefix) []netip.Prefix {
	sorted := slices.SortedFunc(slices.Values(others), netip.Prefix.Compare)
	var left []netip.Prefix
	for _, p := range prefixes {
		left = appendWithout(left, p, inside(p, sorted))
	}
	return left
}

// inside returns those of the sorted prefixes that p contains.
func inside(p netip.Prefix, sorted []netip.Prefix) []netip.Prefix {
	first, _ := slices.BinarySearchFunc(sorted, p, netip.Prefix.Compare)
	last := first
	for last < len(sorted) && p.Contains(sorted[last].Addr()) {
		last++
	}
	return sorted[first:last]
}

// appendWithout halves p until none of the others, which p contains, is in a part.
func appendWithout(left []netip.Prefix, p netip.Prefix, others []netip.Prefix) []netip.Prefix {
	if len(others) == 0 {
		return append(left, p)
	}
	if slices.Contains(others, p) {
		return left
	}
	low, high := halves(p)
	return appendWithout(appendWithout(left, low, inside(low, others)), high, inside(high, others))
}

func halves(p netip.Prefix) (low, high netip.Prefix) {
	bits := p.Bits() + 1
	b := p.Masked().Addr().AsSlice()
	b[p.Bits()/8] |= 0x80 >> (p.Bits() % 8)
	upper, _ := netip.AddrFromSlice(b)
	return netip.PrefixFrom(p.Masked().Addr(), bits), netip.PrefixFrom(upper, bits)
}
