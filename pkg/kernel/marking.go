package kernel

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"

	"github.com/egress-ip/egress-ip/pkg/egress"
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Marking reads what the table inet egress_ip makes of the first packet of a
// connection that a pod opens to an address; the zero pod is one without egress.
func (k *Kernel) Marking(pod, to netip.Addr) (egress.Marking, error) {
	m, err := k.marking(pod, to)
	return m, classifyError(err)
}

func (k *Kernel) marking(pod, to netip.Addr) (m egress.Marking, err error) {
	if m.Stands, err = k.hasTable(egressTable); err != nil || !m.Stands {
		return m, err
	}
	have, err := k.rulesOf(egressTable, prerouting.Name)
	if err != nil {
		return m, err
	}
	if !sameRules(preroutingRules(), have) {
		m.Altered = prerouting.Name
		return m, nil
	}
	if m.Cluster, err = k.holds(inet[egress.FamilyOf(to)].clusterSet(), to); err != nil {
		return m, err
	}
	if m.Chain, m.Element, err = k.chainFor(pod, m.Cluster); err != nil || m.Chain == "" {
		return m, err
	}
	have, err = k.rulesOf(egressTable, m.Chain)
	if err != nil {
		return m, err
	}
	mark, mask := markOf(have)
	want := outRules(mark, mask)
	if m.Chain == others.Name {
		want = othersRules(mask)
	}
	if !sameRules(want, have) {
		m.Altered = m.Chain
	}
	m.Mark = mark
	return m, nil
}

// chainFor returns the chain in which a pod's packet gets its mark.
func (k *Kernel) chainFor(pod netip.Addr, cluster bool) (chain string, element bool, err error) {
	if pod.IsValid() {
		f := inet[egress.FamilyOf(pod)]
		out, there, err := k.valueOf(f.verdictMap(f.out), pod.AsSlice())
		if err != nil {
			return "", false, err
		}
		if there && !cluster {
			return verdictChain(out), true, nil
		}
		if there {
			return others.Name, true, nil
		}
	}
	unmarked, _, err := k.valueOf(unmarkedMap(), native(0))
	return verdictChain(unmarked), false, err
}

// Translation reads what the table inet egress_ip makes of the source of a pod's
// packet to an address when it leaves by a link.
func (k *Kernel) Translation(pod, to netip.Addr, link string) (egress.Translation, error) {
	t, err := k.translation(pod, to, link)
	return t, classifyError(err)
}

func (k *Kernel) translation(pod, to netip.Addr, link string) (t egress.Translation, err error) {
	have, err := k.rulesOf(egressTable, postrouting.Name)
	if err != nil {
		return t, err
	}
	if stands, err := k.hasTable(egressTable); err != nil || !stands {
		return t, err
	}
	if !sameRules(postroutingRules(), have) {
		t.Altered = postrouting.Name
		return t, nil
	}
	f := inet[egress.FamilyOf(to)]
	if cluster, err := k.holds(f.clusterSet(), to); err != nil || cluster {
		return t, err
	}
	source, _, err := k.valueOf(f.snatMap(), slices.Concat(pod.AsSlice(), ifNameKey(link)))
	t.Source, _ = netip.AddrFromSlice(source)
	return t, err
}

// valueOf reads what a map has for a key: an address, or a verdict's attributes.
func (k *Kernel) valueOf(set *nftables.Set, key []byte) (value []byte, ok bool, err error) {
	found, err := k.nft.FindSetElements(set, []nftables.SetElement{{Key: key}})
	if errors.Is(err, unix.ENOENT) || err == nil && len(found) == 0 {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	return found[0].Val, true, nil
}

// holds reports whether an interval set has an address.
func (k *Kernel) holds(set *nftables.Set, address netip.Addr) (bool, error) {
	elements, err := k.nft.GetSetElements(set)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	return holds(elements, address), err
}

// holds: the last bound up to the address is a beginning, not an end.
func holds(elements []nftables.SetElement, address netip.Addr) bool {
	var last nftables.SetElement
	for _, e := range elements {
		if bytes.Compare(e.Key, address.AsSlice()) > 0 {
			continue
		}
		if order := bytes.Compare(e.Key, last.Key); order > 0 || order == 0 && !e.IntervalEnd {
			last = e
		}
	}
	return last.Key != nil && !last.IntervalEnd
}

// verdictChain returns the chain that a verdict goes to; no attributes, no chain.
func verdictChain(attributes []byte) string {
	all, err := nl.ParseRouteAttr(attributes)
	if err != nil {
		return ""
	}
	for _, a := range all {
		if a.Attr.Type == unix.NFTA_VERDICT_CHAIN {
			return nl.BytesToString(a.Value)
		}
	}
	return ""
}

// markOf returns the mark, and the mask, of the last rule that sets one.
func markOf(rules []*nftables.Rule) (mark, mask uint32) {
	for _, r := range rules {
		if len(r.Exprs) != len(setMark(0, 0)) {
			continue
		}
		if b, ok := r.Exprs[1].(*expr.Bitwise); ok && len(b.Mask) == 4 && len(b.Xor) == 4 {
			mark, mask = binary.NativeEndian.Uint32(b.Xor), ^binary.NativeEndian.Uint32(b.Mask)
		}
	}
	return mark, mask
}
