package kernel

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/egress-ip/egress-ip/pkg/egress"
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// The table that stands while annotated pods do:
//
//	table inet egress_ip {
//		map snat4 { type ipv4_addr . ifname : ipv4_addr; }
//		map snat6 { type ipv6_addr . ifname : ipv6_addr; }
//		set cluster4 { type ipv4_addr; flags interval; }
//		set cluster6 { type ipv6_addr; flags interval; }
//		chain postrouting { type nat hook postrouting priority srcnat - 10; ... }
//	}
var (
	egressTable = &nftables.Table{Family: nftables.TableFamilyINet, Name: "egress_ip"}

	postrouting = &nftables.Chain{
		Table: egressTable, Name: "postrouting", Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPostrouting,
		// Before everyone's masquerade: the first to translate a connection wins.
		Priority: nftables.ChainPriorityRef(*nftables.ChainPriorityNATSource - 10),
	}
)

// inetFamily is what differs between the two halves of the table.
type inetFamily struct {
	nfproto      byte
	addr         nftables.SetDatatype
	source, dest func() *expr.Payload
	behindAddr   uint32 // the register behind an address in reg1
	snat         string
	cluster      string
}

var inet = map[egress.Family]inetFamily{
	egress.IPv4: {unix.NFPROTO_IPV4, nftables.TypeIPAddr, ip4Source, ip4Dest, regBehindIP4, "snat4", "cluster4"},
	egress.IPv6: {unix.NFPROTO_IPV6, nftables.TypeIP6Addr, ip6Source, ip6Dest, regBehindIP6, "snat6", "cluster6"},
}

func (f inetFamily) snatMap() *nftables.Set {
	m := set(egressTable, f.snat, nftables.MustConcatSetType(f.addr, nftables.TypeIFName))
	m.IsMap, m.Concatenation, m.DataType = true, true, f.addr
	return m
}

func (f inetFamily) clusterSet() *nftables.Set {
	s := set(egressTable, f.cluster, f.addr)
	s.Interval = true
	return s
}

func postroutingRules() [][]expr.Any {
	var rules [][]expr.Any
	for _, family := range egress.Families {
		f := inet[family]
		rules = append(rules,
			// ip daddr @cluster4 return
			slices.Concat(protocol(f.nfproto), []expr.Any{
				f.dest(),
				&expr.Lookup{SourceRegister: reg1, SetName: f.cluster},
				verdict(expr.VerdictReturn),
			}),
			// snat ip to ip saddr . oifname map @snat4
			slices.Concat(protocol(f.nfproto), []expr.Any{
				f.source(),
				&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: f.behindAddr},
				&expr.Lookup{SourceRegister: reg1, SetName: f.snat, DestRegister: reg1, IsDestRegSet: true},
				// The kernel reads a range of one back, so that is what is written.
				&expr.NAT{Type: expr.NATTypeSourceNAT, Family: uint32(f.nfproto), RegAddrMin: reg1, RegAddrMax: reg1},
			}))
	}
	return rules
}

// SetTranslations puts up the table if it is not there or not right, makes the
// cluster sets these, and the translations of their pods these, in one
// transaction. Elements of other pods stay.
func (k *Kernel) SetTranslations(snats []egress.SNAT, cluster []netip.Prefix) error {
	have, err := k.rulesOf(egressTable, postrouting.Name)
	if err != nil {
		return translationError(err)
	}
	if !sameRules(postroutingRules(), have, egressTable.Family) {
		k.nft.AddTable(egressTable)
		for _, family := range egress.Families {
			for _, s := range []*nftables.Set{inet[family].clusterSet(), inet[family].snatMap()} {
				if err := k.nft.AddSet(s, nil); err != nil {
					return translationError(err)
				}
			}
		}
		k.setRules(k.nft.AddChain(postrouting), postroutingRules())
	}
	for _, family := range egress.Families {
		f := inet[family]
		var prefixes []netip.Prefix
		for _, c := range cluster {
			if egress.FamilyOf(c.Addr()) == family {
				prefixes = append(prefixes, c)
			}
		}
		if err := k.setElements(f.clusterSet(), elementsOf(prefixes)); err != nil {
			return translationError(err)
		}
	}
	for _, s := range snats {
		if err := k.setTranslation(s); err != nil {
			return translationError(err)
		}
	}
	return translationError(k.nft.Flush())
}

// setElements makes an interval set's elements these, in the batch under way.
func (k *Kernel) setElements(s *nftables.Set, want []nftables.SetElement) error {
	have, err := k.nft.GetSetElements(s)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	if err == nil && sameElements(want, have) {
		return nil
	}
	k.nft.FlushSet(s)
	return k.nft.SetAddElements(s, want)
}

// setTranslation writes one element, in the batch under way. Adding an element
// that is there keeps its comment, or, with another address, fails: so it goes first.
func (k *Kernel) setTranslation(s egress.SNAT) error {
	m, element := snatElement(s)
	have, there, err := k.translation(s)
	if err != nil || there && have == s {
		return err
	}
	if there {
		old := nftables.SetElement{Key: element.Key, Val: have.Address.AsSlice()}
		if err := k.nft.SetDeleteElements(m, []nftables.SetElement{old}); err != nil {
			return err
		}
	}
	return k.nft.SetAddElements(m, []nftables.SetElement{element})
}

func snatElement(s egress.SNAT) (*nftables.Set, nftables.SetElement) {
	// The comment is what nft shows of the owner; 128 bytes are its limit.
	return inet[egress.FamilyOf(s.Pod)].snatMap(), nftables.SetElement{
		Key: slices.Concat(s.Pod.AsSlice(), ifNameKey(s.Link)), Val: s.Address.AsSlice(), Comment: s.Owner,
	}
}

// translation reads the element of a pod address and a link, whatever its value.
func (k *Kernel) translation(s egress.SNAT) (egress.SNAT, bool, error) {
	m, element := snatElement(s)
	found, err := k.nft.FindSetElements(m, []nftables.SetElement{{Key: element.Key}})
	if errors.Is(err, unix.ENOENT) || err == nil && len(found) == 0 {
		return egress.SNAT{}, false, nil
	}
	if err != nil {
		return egress.SNAT{}, false, err
	}
	address, _ := netip.AddrFromSlice(found[0].Val)
	return egress.SNAT{Pod: s.Pod, Link: s.Link, Address: address, Owner: found[0].Comment}, true, nil
}

// DeleteTranslations removes the elements that are exactly these, in one
// transaction; one that belongs to another container by now stays.
func (k *Kernel) DeleteTranslations(snats []egress.SNAT) error {
	for _, s := range snats {
		have, there, err := k.translation(s)
		if err != nil {
			return translationError(err)
		}
		if !there || have != s {
			continue
		}
		m, element := snatElement(s)
		if err := k.nft.SetDeleteElements(m, []nftables.SetElement{element}); err != nil {
			return translationError(err)
		}
	}
	return translationError(k.nft.Flush())
}

// DeleteTranslationTable removes the table with all that is in it.
func (k *Kernel) DeleteTranslationTable() error {
	k.nft.AddTable(egressTable)
	k.nft.DelTable(egressTable)
	return translationError(k.nft.Flush())
}

// MissingTranslations says which of these are not in the kernel as they should
// be; with the chain gone or changed, that is said instead.
func (k *Kernel) MissingTranslations(snats []egress.SNAT) ([]string, error) {
	have, err := k.rulesOf(egressTable, postrouting.Name)
	if err != nil {
		return nil, translationError(err)
	}
	if !sameRules(postroutingRules(), have, egressTable.Family) {
		return []string{"table inet egress_ip with its chain postrouting"}, nil
	}
	var missing []string
	for _, s := range snats {
		have, there, err := k.translation(s)
		if err != nil {
			return nil, translationError(err)
		}
		if !there || have != s {
			missing = append(missing, fmt.Sprintf("element { %s } of map %s in table inet egress_ip", s, inet[egress.FamilyOf(s.Pod)].snat))
		}
	}
	return missing, nil
}

func translationError(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("table inet %s: %w", egressTable.Name, err)
}
