package kernel

import (
	"bytes"
	"net/netip"
	"slices"

	"github.com/egress-ip/egress-ip/pkg/egress"
	"github.com/google/nftables"
)

// addNetworks adds elements of one cluster set.
func addNetworks(tx *nftables.Conn, set string, networks ...egress.Element) error {
	return tx.SetAddElements(setNamed(set), intervals(networks))
}

// clusterSets returns the names of the cluster sets that chains refer to, and of those
// that exist with the table.
func clusterSets(chains []egress.Chain) []string {
	names := []string{egress.IPv4.Cluster(), egress.IPv6.Cluster()}
	for _, c := range chains {
		for _, name := range []string{c.Cluster4, c.Cluster6} {
			if name != "" && !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	return names
}

// intervals turns networks that do not overlap into what an interval set holds:
// the first address of each, and the one behind its last as an end.
func intervals(elements []egress.Element) []nftables.SetElement {
	var all []nftables.SetElement
	for _, e := range elements {
		end := behind(e.Net)
		all = append(all, nftables.SetElement{Key: e.Net.Addr().AsSlice(), IntervalOpen: !end.IsValid()})
		if end.IsValid() {
			all = append(all, nftables.SetElement{Key: end.AsSlice(), IntervalEnd: true})
		}
	}
	return all
}

// fromCluster is intervals the other way. An interval that is no network comes
// back as an element that equals none of ours.
func fromCluster(set string, found []nftables.SetElement) []egress.Element {
	slices.SortFunc(found, func(a, b nftables.SetElement) int {
		if c := bytes.Compare(a.Key, b.Key); c != 0 || a.IntervalEnd == b.IntervalEnd {
			return c
		}
		if a.IntervalEnd { // of the network before the one that begins here
			return -1
		}
		return 1
	})
	var elements []egress.Element
	var first netip.Addr
	add := func(end netip.Addr) {
		if !first.IsValid() {
			return
		}
		e := egress.Element{Set: set, Net: network(first, end)}
		if !e.Net.IsValid() {
			e.Pod = first
		}
		elements = append(elements, e)
	}
	for _, s := range found {
		a, _ := netip.AddrFromSlice(s.Key)
		if s.IntervalEnd {
			add(a)
			first = netip.Addr{}
			continue
		}
		first = a
	}
	add(netip.Addr{})
	return elements
}

// network returns the prefix from first to before end; zero where that is none.
func network(first, end netip.Addr) netip.Prefix {
	for bits := 0; bits <= first.BitLen(); bits++ {
		if p := netip.PrefixFrom(first, bits); p.Masked().Addr() == first && behind(p) == end {
			return p
		}
	}
	return netip.Prefix{}
}

// behind returns the address after a prefix's last; zero after the very last.
func behind(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for bit := p.Bits(); bit < len(b)*8; bit++ {
		b[bit/8] |= 0x80 >> (bit % 8)
	}
	last, _ := netip.AddrFromSlice(b)
	return last.Next()
}
