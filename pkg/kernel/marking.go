package kernel

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/egress-ip/egress-ip/pkg/egress"
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
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
	have, err := k.rulesIn(egressTable, prerouting.Name)
	if err != nil {
		return m, err
	}
	if !sameRules(preroutingRules(foreignOf(have)), have) {
		m.Altered = prerouting.Name
		return m, nil
	}
	if m.Cluster, err = k.isCluster(to); err != nil {
		return m, err
	}
	if m.Chain, m.Element, err = k.chainFor(pod, m.Cluster); err != nil || m.Chain == "" {
		return m, err
	}
	have, err = k.rulesIn(egressTable, m.Chain)
	if err != nil {
		return m, err
	}
	mark, mask := markOf(have)
	if !sameRules(rulesOf(egress.Chain{Name: m.Chain, Mark: mark, Mask: mask}), have) {
		m.Altered = m.Chain
	}
	m.Mark = mark
	return m, nil
}

// chainFor returns the chain in which a pod's packet gets its mark.
func (k *Kernel) chainFor(pod netip.Addr, cluster bool) (chain string, element bool, err error) {
	if pod.IsValid() {
		out, there, err := k.element(egress.Element{Set: egress.FamilyOf(pod).Out(), Pod: pod})
		if err != nil {
			return "", false, err
		}
		if there && !cluster {
			return out.Chain, true, nil
		}
		if there {
			return egress.Others, true, nil
		}
	}
	unmarked, _, err := k.element(egress.UnmarkedElement())
	return unmarked.Chain, false, err
}

// Translation reads what the table inet egress_ip makes of the source of a pod's
// packet to an address when it leaves by a link.
func (k *Kernel) Translation(pod, to netip.Addr, link string) (egress.Translation, error) {
	t, err := k.translation(pod, to, link)
	return t, classifyError(err)
}

func (k *Kernel) translation(pod, to netip.Addr, link string) (t egress.Translation, err error) {
	have, err := k.rulesIn(egressTable, postrouting.Name)
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
	if cluster, err := k.isCluster(to); err != nil || cluster {
		return t, err
	}
	snat, _, err := k.element(egress.Element{Set: egress.FamilyOf(to).SNAT(), Pod: pod, Link: link})
	t.Source = snat.Address
	return t, err
}

// isCluster reports whether the cluster sets have an address.
func (k *Kernel) isCluster(to netip.Addr) (bool, error) {
	elements, err := k.elements(egress.FamilyOf(to).Cluster())
	return slices.ContainsFunc(elements, func(e egress.Element) bool { return e.Net.Contains(to) }), err
}

// foreignOf returns the bits in which the prerouting chain with these rules takes a mark
// for somebody else's.
func foreignOf(rules []*nftables.Rule) uint32 {
	if len(rules) == 0 || len(rules[len(rules)-1].Exprs) < 2 {
		return 0
	}
	b, ok := rules[len(rules)-1].Exprs[1].(*expr.Bitwise)
	if !ok || len(b.Mask) != 4 {
		return 0
	}
	return binary.NativeEndian.Uint32(b.Mask)
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
