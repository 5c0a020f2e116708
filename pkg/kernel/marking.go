package kernel

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"strings"

	"github.com/egress-ip/egress-ip/pkg/egress"
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Marking reads what the table inet egress_ip makes of the first packet of a
// connection that a pod opens to an address; the zero pod is one without egress. IPVS may
// have sent the packet there.
func (k *Kernel) Marking(pod, to netip.Addr, byIPVS bool) (m egress.Marking, err error) {
	_, err = k.consistent(func() error {
		m, err = k.marking(pod, to, byIPVS)
		return err
	})
	return m, k.classifyError(err)
}

func (k *Kernel) marking(pod, to netip.Addr, byIPVS bool) (m egress.Marking, err error) {
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
	if byIPVS {
		have, err := k.rulesIn(egressTable, output.Name)
		if err != nil {
			return m, err
		}
		if !sameRules(outputRules(maskOf(have[min(len(have), 1):])), have) {
			m.Altered = output.Name
			return m, nil
		}
	}
	if m.Guarded, err = k.guards(); err != nil {
		return m, err
	}
	if _, m.ToPod, err = k.element(egress.Element{Set: egress.FamilyOf(to).Back(), Pod: to}); err != nil {
		return m, err
	}
	if pod.IsValid() {
		if _, m.Known, err = k.element(egress.Element{Set: egress.FamilyOf(pod).Guard(), Pod: pod}); err != nil {
			return m, err
		}
		out, there, err := k.element(egress.Element{Set: egress.FamilyOf(pod).Out(), Pod: pod})
		if err != nil {
			return m, err
		}
		m.Element, m.Chain = there, out.Chain
	}
	if !m.Element {
		unmarked, _, err := k.element(egress.UnmarkedElement())
		if err != nil || unmarked.Chain == "" {
			return m, err
		}
		m.Chain = unmarked.Chain
	}
	c, err := k.chain(m.Chain)
	if err != nil {
		return m, err
	}
	if m.Element {
		if m.Cluster, err = k.hasNetwork(clusterSetOf(c, egress.FamilyOf(to)), to); err != nil {
			return m, err
		}
		if m.Cluster {
			m.Set, m.Chain = clusterSetOf(c, egress.FamilyOf(to)), egress.Others
			if c, err = k.chain(m.Chain); err != nil {
				return m, err
			}
		}
	}
	if c.Name == "" {
		m.Altered = m.Chain
	}
	m.Mark = c.Mark
	return m, nil
}

// guards reports whether the guard is as egress-ip makes it.
func (k *Kernel) guards() (bool, error) {
	rules, err := k.rulesIn(egressTable, exit.Name)
	if err != nil {
		return false, err
	}
	hooked, err := k.nft.ListChain(egressTable, exit.Name)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	return err == nil && sameHook(exit, hooked) && sameRules(exitRules(maskOf(rules)), rules), err
}

// chain reads a chain that sets a mark; without a name if it is not as egress-ip makes it.
func (k *Kernel) chain(name string) (egress.Chain, error) {
	have, err := k.rulesIn(egressTable, name)
	if err != nil {
		return egress.Chain{}, err
	}
	c := egress.Chain{Name: name}
	c.Mark, c.Mask = markOf(have)
	c.Cluster4, c.Cluster6 = clusterSetsOf(have)
	if !sameRules(rulesOf(c), have) {
		c.Name = ""
	}
	return c, nil
}

// clusterSetsOf returns the names of the cluster sets that rules look up.
func clusterSetsOf(rules []*nftables.Rule) (cluster4, cluster6 string) {
	for _, r := range rules {
		for _, e := range r.Exprs {
			l, ok := e.(*expr.Lookup)
			switch {
			case ok && strings.HasPrefix(l.SetName, egress.IPv4.Cluster()):
				cluster4 = l.SetName
			case ok && strings.HasPrefix(l.SetName, egress.IPv6.Cluster()):
				cluster6 = l.SetName
			}
		}
	}
	return cluster4, cluster6
}

func clusterSetOf(c egress.Chain, f egress.Family) string {
	if f == egress.IPv4 {
		return c.Cluster4
	}
	return c.Cluster6
}

// Translation reads what the table inet egress_ip makes of the source of a pod's
// packet when it leaves by a link, with this mark.
func (k *Kernel) Translation(pod netip.Addr, mark uint32, link int) (t egress.Translation, err error) {
	_, err = k.consistent(func() error {
		t, err = k.translation(pod, mark, link)
		return err
	})
	return t, k.classifyError(err)
}

func (k *Kernel) translation(pod netip.Addr, mark uint32, link int) (t egress.Translation, err error) {
	have, err := k.rulesIn(egressTable, postrouting.Name)
	if err != nil {
		return t, err
	}
	if exists, err := k.hasTable(egressTable); err != nil || !exists {
		return t, err
	}
	mask := maskOf(have)
	if !sameRules(postroutingRules(mask), have) {
		t.Altered = postrouting.Name
		return t, nil
	}
	if mark&mask == mask {
		return t, nil
	}
	snat, _, err := k.element(egress.Element{Set: egress.FamilyOf(pod).SNAT(), Pod: pod, Link: link})
	t.Source = snat.Address
	return t, err
}

// hasNetwork reports whether a cluster set has an address.
func (k *Kernel) hasNetwork(set string, to netip.Addr) (bool, error) {
	if set == "" {
		return false, nil
	}
	elements, err := k.elements(set, nil)
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

// maskOf returns the bits by which the first of these rules tells marks apart.
func maskOf(rules []*nftables.Rule) uint32 {
	if len(rules) == 0 || len(rules[0].Exprs) < 2 {
		return 0
	}
	b, ok := rules[0].Exprs[1].(*expr.Bitwise)
	if !ok || len(b.Mask) != 4 {
		return 0
	}
	return binary.NativeEndian.Uint32(b.Mask)
}

// markOf returns the mark, and the mask, of the last rule that sets one.
func markOf(rules []*nftables.Rule) (mark, mask uint32) {
	for _, r := range rules {
		for i, e := range r.Exprs {
			m, sets := e.(*expr.Meta)
			if !sets || !m.SourceRegister || i == 0 {
				continue
			}
			if b, ok := r.Exprs[i-1].(*expr.Bitwise); ok && len(b.Mask) == 4 && len(b.Xor) == 4 {
				mark, mask = binary.NativeEndian.Uint32(b.Xor), ^binary.NativeEndian.Uint32(b.Mask)
			}
		}
	}
	return mark, mask
}
