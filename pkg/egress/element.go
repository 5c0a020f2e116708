package egress

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
)

// Chain is a chain of the table inet egress_ip. Those that set a mark set Mark
// within Mask, and Exit takes it off; of Prerouting Mask is the bits in which somebody else's mark shows; the
// others have neither.
type Chain struct {
	Name       string
	Mark, Mask uint32
}

// The chains that all links share.
const (
	Prerouting  = "prerouting"
	Output      = "output"
	Postrouting = "postrouting"
	Exit        = "exit"
	Others      = "others"
)

// OutChain is where what pods send to a link is classified.
func OutChain(index int) string { return "out_" + strconv.Itoa(index) }

// CountedChain is OutChain for pods whose packets are counted.
func CountedChain(index int) string { return "counted_" + strconv.Itoa(index) }

// BackChain is where what comes back by a link is.
func BackChain(index int) string { return "back_" + strconv.Itoa(index) }

// String names the chain.
func (c Chain) String() string { return "chain " + c.Name + " of table inet egress_ip" }

// Hooked reports whether packets come to the chain from the kernel, not from
// another chain.
func (c Chain) Hooked() bool {
	return c.Name == Prerouting || c.Name == Output || c.Name == Postrouting || c.Name == Exit
}

// The maps and sets of a family in the table inet egress_ip.
func (f Family) Out() string     { return "out" + f.digit() }     // pod : goto out_N
func (f Family) Back() string    { return "back" + f.digit() }    // pod : goto back_N
func (f Family) SNAT() string    { return "snat" + f.digit() }    // pod . link : egress address
func (f Family) Sent() string    { return "sent" + f.digit() }    // pod, with a counter
func (f Family) Cluster() string { return "cluster" + f.digit() } // networks

// Unmarked is the map { 0 : goto others }, of both families.
const Unmarked = "unmarked"

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
	Link    string       // SNAT: its second half
	Net     netip.Prefix // Cluster: the key
	Chain   string       // where a verdict map goes to
	Address netip.Addr   // SNAT: the egress address
	Owner   string       // the comment: the container ID
}

// UnmarkedElement is what stands in the map Unmarked.
func UnmarkedElement() Element { return Element{Set: Unmarked, Chain: Others} }

// String gives the element as nft prints it, without the comment, and where it is.
func (e Element) String() string {
	var what string
	switch {
	case e.Net.IsValid():
		what = e.Net.String()
	case e.Set == Unmarked:
		what = "0 : goto " + e.Chain
	case e.Chain != "":
		what = e.Pod.String() + " : goto " + e.Chain
	case e.Address.IsValid():
		what = fmt.Sprintf("%s . %q : %s", e.Pod, e.Link, e.Address)
	default:
		what = e.Pod.String()
	}
	kind := "map"
	if e.Net.IsValid() || e.Chain == "" && !e.Address.IsValid() {
		kind = "set"
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
