package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/egress-ip/egress-ip/pkg/egress"
	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// The table that stands while annotated pods do:
//
//	table inet egress_ip {
//		map out4 { type ipv4_addr : verdict; }               # and out6
//		map back4 { type ipv4_addr : verdict; }              # and back6
//		map snat4 { type ipv4_addr . ifname : ipv4_addr; }   # and snat6
//		set cluster4 { type ipv4_addr; flags interval; }     # and cluster6
//		map unmarked { type mark : verdict; }                # { 0 : goto others }
//		chain prerouting { type filter hook prerouting priority dstnat + 10; ... }
//		chain output { type route hook output priority mangle; ... }
//		chain out_134 { ... }                                # a link
//		chain back_134 { ... }                               # a link
//		chain others { ... }
//		chain postrouting { type nat hook postrouting priority srcnat - 10; ... }
//	}
var (
	egressTable = &nftables.Table{Family: nftables.TableFamilyINet, Name: "egress_ip"}

	prerouting = &nftables.Chain{
		Table: egressTable, Name: "prerouting", Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookPrerouting,
		// Behind everyone's DNAT: the real destination counts, a Service's backend.
		Priority: nftables.ChainPriorityRef(*nftables.ChainPriorityNATDest + 10),
	}
	postrouting = &nftables.Chain{
		Table: egressTable, Name: "postrouting", Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPostrouting,
		// Before everyone's masquerade: the first to translate a connection wins.
		Priority: nftables.ChainPriorityRef(*nftables.ChainPriorityNATSource - 10),
	}
	output = &nftables.Chain{
		Table: egressTable, Name: "output", Type: nftables.ChainTypeRoute,
		Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityMangle,
	}
	others = &nftables.Chain{Table: egressTable, Name: "others"}
)

func outChain(index int) *nftables.Chain {
	return &nftables.Chain{Table: egressTable, Name: fmt.Sprintf("out_%d", index)}
}

func backChain(index int) *nftables.Chain {
	return &nftables.Chain{Table: egressTable, Name: fmt.Sprintf("back_%d", index)}
}

// inetFamily is what differs between the two halves of the table.
type inetFamily struct {
	nfproto                  byte
	addr                     nftables.SetDatatype
	source, dest             func() *expr.Payload
	behindAddr               uint32 // the register behind an address in reg1
	out, back, snat, cluster string
	ctSource                 expr.CtKey
}

var inet = map[egress.Family]inetFamily{
	egress.IPv4: {unix.NFPROTO_IPV4, nftables.TypeIPAddr, ip4Source, ip4Dest, regBehindIP4, "out4", "back4", "snat4", "cluster4", expr.CtKeySRCIP},
	egress.IPv6: {unix.NFPROTO_IPV6, nftables.TypeIP6Addr, ip6Source, ip6Dest, regBehindIP6, "out6", "back6", "snat6", "cluster6", expr.CtKeySRCIP6},
}

func (f inetFamily) verdictMap(name string) *nftables.Set {
	m := set(egressTable, name, f.addr)
	m.IsMap, m.DataType = true, nftables.TypeVerdict
	return m
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

func unmarkedMap() *nftables.Set {
	return &nftables.Set{
		Table: egressTable, Name: "unmarked", KeyType: nftables.TypeMark, KeyByteOrder: binaryutil.NativeEndian,
		IsMap: true, DataType: nftables.TypeVerdict,
	}
}

// unmarkedElement is { 0 : goto others }.
func unmarkedElement() mapElement {
	return mapElement{unmarkedMap(), nftables.SetElement{
		Key: native(0), VerdictData: &expr.Verdict{Kind: expr.VerdictGoto, Chain: others.Name},
	}}
}

// foreignMarks are the mark bits in which somebody else's mark shows. kube-proxy's
// two, 0x4000 and 0x8000, do not count: they are always matched with a mask.
const foreignMarks = 0xffff3fff

func preroutingRules() [][]expr.Any {
	var rules [][]expr.Any
	for _, family := range egress.Families {
		f := inet[family]
		rules = append(rules,
			// ip saddr vmap @out4
			slices.Concat(protocol(f.nfproto), []expr.Any{
				f.source(), &expr.Lookup{SourceRegister: reg1, SetName: f.out, IsDestRegSet: true},
			}),
			// ip daddr vmap @back4
			slices.Concat(protocol(f.nfproto), []expr.Any{
				f.dest(), &expr.Lookup{SourceRegister: reg1, SetName: f.back, IsDestRegSet: true},
			}))
	}
	return append(rules,
		// meta mark & 0xffff3fff vmap @unmarked
		//
		// People match their marks without a mask, so one that is there is left alone.
		// The 0 stands in a map, because while the ruleset is flushed the kernel goes on
		// with the rules for some 50 µs after the elements of all sets have gone. A rule
		// that needs none would then mark what is a pod's as not ours.
		[]expr.Any{
			loadMark(), bitwise(foreignMarks, 0),
			&expr.Lookup{SourceRegister: reg1, SetName: unmarkedMap().Name, IsDestRegSet: true},
		})
}

// outputRules classify what the node itself says about egress connections: ICMP
// errors about what comes back, a packet too big for the pod's link above all.
// They are translated to the egress address, so they leave by its link.
func outputRules() [][]expr.Any {
	var rules [][]expr.Any
	for _, family := range egress.Families {
		f := inet[family]
		// ct state related ct direction original ct original ip saddr vmap @out4
		rules = append(rules, []expr.Any{
			&expr.Ct{Key: expr.CtKeySTATE, Register: reg1},
			bitwise(expr.CtStateBitRELATED, 0), &expr.Cmp{Op: expr.CmpOpNeq, Register: reg1, Data: native(0)},
			&expr.Ct{Key: expr.CtKeyDIRECTION, Register: reg1}, equals([]byte{0}),
			&expr.Ct{Key: f.ctSource, Register: reg1}, // direction 0: original
			&expr.Lookup{SourceRegister: reg1, SetName: f.out, IsDestRegSet: true},
		})
	}
	return rules
}

// outRules classify what a pod sends: only connections that it has opened itself,
// to destinations outside the cluster, are for the link.
func outRules(mark, mask uint32) [][]expr.Any {
	rules := [][]expr.Any{
		// ct direction reply goto others
		directionGotoOthers(1),
	}
	for _, family := range egress.Families {
		f := inet[family]
		// ip daddr @cluster4 goto others
		rules = append(rules, slices.Concat(protocol(f.nfproto), []expr.Any{
			f.dest(), &expr.Lookup{SourceRegister: reg1, SetName: f.cluster},
			&expr.Verdict{Kind: expr.VerdictGoto, Chain: others.Name},
		}))
	}
	return append(rules,
		// ct state invalid fib daddr type unicast drop
		//
		// Conntrack translates no packet that it cannot place (a late one of a
		// connection that it has forgotten): it would leave with the pod's address.
		[]expr.Any{
			&expr.Ct{Key: expr.CtKeySTATE, Register: reg1},
			bitwise(expr.CtStateBitINVALID, 0), &expr.Cmp{Op: expr.CmpOpNeq, Register: reg1, Data: native(0)},
			&expr.Fib{Register: reg1, FlagDADDR: true, ResultADDRTYPE: true}, equals(native(unix.RTN_UNICAST)),
			verdict(expr.VerdictDrop),
		},
		setMark(mark, mask))
}

// backRules classify what is sent to a pod: answers to its own connections get
// the link's mark too, for the reverse path filter.
func backRules(mark, mask uint32) [][]expr.Any {
	return [][]expr.Any{
		// ct direction original goto others
		directionGotoOthers(0),
		setMark(mark, mask),
	}
}

// othersRules mark what is none of ours, so that it skips the source rules.
func othersRules(mask uint32) [][]expr.Any {
	return [][]expr.Any{
		// meta mark set meta mark | 0x0f000000
		setMark(mask, mask),
	}
}

func postroutingRules() [][]expr.Any {
	var rules [][]expr.Any
	for _, family := range egress.Families {
		f := inet[family]
		rules = append(rules,
			// ip daddr @cluster4 return
			slices.Concat(protocol(f.nfproto), []expr.Any{
				f.dest(), &expr.Lookup{SourceRegister: reg1, SetName: f.cluster},
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

// directionGotoOthers is `ct direction original goto others` (0) or reply (1).
func directionGotoOthers(direction byte) []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeyDIRECTION, Register: reg1}, equals([]byte{direction}),
		&expr.Verdict{Kind: expr.VerdictGoto, Chain: others.Name},
	}
}

// setMark is `meta mark set meta mark & ~mask | mark`: bits outside the mask stay.
func setMark(mark, mask uint32) []expr.Any {
	return []expr.Any{
		loadMark(), bitwise(^mask, mark),
		&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: reg1},
	}
}

func loadMark() *expr.Meta { return &expr.Meta{Key: expr.MetaKeyMARK, Register: reg1} }

// bitwise keeps the bits of a mask and then turns those of xor.
func bitwise(mask, xor uint32) *expr.Bitwise {
	return &expr.Bitwise{SourceRegister: reg1, DestRegister: reg1, Len: 4, Mask: native(mask), Xor: native(xor)}
}

// native is how a mark stands in a register.
func native(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }

// chainRules are a chain and what is to be in it.
type chainRules struct {
	chain *nftables.Chain
	rules [][]expr.Any
}

// chainsOf returns the chains that these classes need, in an order in which each
// comes before those that go to it.
func chainsOf(c egress.Classes) []chainRules {
	chains := []chainRules{{others, othersRules(c.Mask)}}
	seen := map[int]bool{}
	for _, p := range c.Pods {
		if !seen[p.Index] {
			seen[p.Index] = true
			chains = append(chains,
				chainRules{outChain(p.Index), outRules(p.Mark, c.Mask)},
				chainRules{backChain(p.Index), backRules(p.Mark, c.Mask)})
		}
	}
	return append(chains, chainRules{prerouting, preroutingRules()}, chainRules{output, outputRules()}, chainRules{postrouting, postroutingRules()})
}

// wrongChains returns those that are not in the kernel as they should be.
func (k *Kernel) wrongChains(chains []chainRules) ([]chainRules, error) {
	var wrong []chainRules
	for _, c := range chains {
		have, err := k.rulesOf(egressTable, c.chain.Name)
		if err != nil {
			return nil, err
		}
		if !sameRules(c.rules, have) {
			wrong = append(wrong, c)
		}
	}
	return wrong, nil
}

// Classify puts up what is not there or not right of the table, makes the cluster
// sets these, and the elements of these pods these, in one transaction. Elements
// of other pods stay.
func (k *Kernel) Classify(c egress.Classes) error {
	wrong, err := k.wrongChains(chainsOf(c))
	if err != nil {
		return classifyError(err)
	}
	if len(wrong) > 0 {
		k.nft.AddTable(egressTable)
		for _, family := range egress.Families {
			f := inet[family]
			for _, s := range []*nftables.Set{f.clusterSet(), f.snatMap(), f.verdictMap(f.out), f.verdictMap(f.back)} {
				if err := k.nft.AddSet(s, nil); err != nil {
					return classifyError(err)
				}
			}
		}
		if err := k.nft.AddSet(unmarkedMap(), nil); err != nil {
			return classifyError(err)
		}
		for _, w := range wrong {
			k.nft.AddChain(w.chain)
		}
		for _, w := range wrong {
			k.setRules(w.chain, w.rules)
		}
	}
	for _, family := range egress.Families {
		var prefixes []netip.Prefix
		for _, p := range c.Cluster {
			if egress.FamilyOf(p.Addr()) == family {
				prefixes = append(prefixes, p)
			}
		}
		if err := k.setElements(inet[family].clusterSet(), elementsOf(prefixes)); err != nil {
			return classifyError(err)
		}
	}
	if err := k.setElement(unmarkedElement()); err != nil {
		return classifyError(err)
	}
	for _, p := range c.Pods {
		for _, e := range elementsOfPod(p) {
			if err := k.setElement(e); err != nil {
				return classifyError(err)
			}
		}
	}
	return classifyError(k.nft.Flush())
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

// mapElement is an element and the map that it is in.
type mapElement struct {
	set *nftables.Set
	nftables.SetElement
}

// elementsOfPod returns the three elements of a pod address.
func elementsOfPod(p egress.Classification) []mapElement {
	f := inet[egress.FamilyOf(p.Pod)]
	to := func(chain *nftables.Chain) *expr.Verdict {
		return &expr.Verdict{Kind: expr.VerdictGoto, Chain: chain.Name}
	}
	return []mapElement{
		{f.verdictMap(f.out), nftables.SetElement{Key: p.Pod.AsSlice(), VerdictData: to(outChain(p.Index)), Comment: p.Owner}},
		{f.verdictMap(f.back), nftables.SetElement{Key: p.Pod.AsSlice(), VerdictData: to(backChain(p.Index)), Comment: p.Owner}},
		{f.snatMap(), nftables.SetElement{
			Key: slices.Concat(p.Pod.AsSlice(), ifNameKey(p.Link)), Val: p.Address.AsSlice(), Comment: p.Owner,
		}},
	}
}

// setElement writes one element, in the batch under way. Adding an element that
// is there keeps its comment, or, with another value, fails: so it goes first.
func (k *Kernel) setElement(e mapElement) error {
	have, there, err := k.element(e)
	if err != nil || there && sameValue(e.SetElement, have) {
		return err
	}
	if there {
		if err := k.nft.SetDeleteElements(e.set, []nftables.SetElement{{Key: e.Key}}); err != nil {
			return err
		}
	}
	return k.nft.SetAddElements(e.set, []nftables.SetElement{e.SetElement})
}

// element reads the element with this one's key, whatever its value.
func (k *Kernel) element(e mapElement) (nftables.SetElement, bool, error) {
	found, err := k.nft.FindSetElements(e.set, []nftables.SetElement{{Key: e.Key}})
	if errors.Is(err, unix.ENOENT) || err == nil && len(found) == 0 {
		return nftables.SetElement{}, false, nil
	}
	if err != nil {
		return nftables.SetElement{}, false, err
	}
	return found[0], true, nil
}

// Declassify removes the elements that are exactly these, and the chains of
// these links, in one transaction. An element that belongs to another container
// by now stays.
func (k *Kernel) Declassify(c egress.Classes, links []int) error {
	for _, p := range c.Pods {
		for _, e := range elementsOfPod(p) {
			have, there, err := k.element(e)
			if err != nil {
				return classifyError(err)
			}
			if !there || !sameValue(e.SetElement, have) {
				continue
			}
			if err := k.nft.SetDeleteElements(e.set, []nftables.SetElement{{Key: e.Key}}); err != nil {
				return classifyError(err)
			}
		}
	}
	for _, index := range links {
		for _, chain := range []*nftables.Chain{outChain(index), backChain(index)} {
			there, err := k.hasChain(chain)
			if err != nil {
				return classifyError(err)
			}
			if there {
				k.nft.FlushChain(chain)
				k.nft.DelChain(chain)
			}
		}
	}
	return classifyError(k.nft.Flush())
}

func (k *Kernel) hasChain(chain *nftables.Chain) (bool, error) {
	_, err := k.nft.ListChain(chain.Table, chain.Name)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	return err == nil, err
}

// DeleteClassification removes the table with all that is in it.
func (k *Kernel) DeleteClassification() error {
	k.nft.AddTable(egressTable)
	k.nft.DelTable(egressTable)
	return classifyError(k.nft.Flush())
}

// MissingClasses says what of these is not in the kernel as it should be.
func (k *Kernel) MissingClasses(c egress.Classes) ([]string, error) {
	var missing []string
	wrong, err := k.wrongChains(chainsOf(c))
	if err != nil {
		return nil, classifyError(err)
	}
	for _, w := range wrong {
		missing = append(missing, fmt.Sprintf("chain %s of table inet %s", w.chain.Name, egressTable.Name))
	}
	unmarked := unmarkedElement()
	have, there, err := k.element(unmarked)
	if err != nil {
		return nil, classifyError(err)
	}
	if !there || !sameValue(unmarked.SetElement, have) {
		missing = append(missing, fmt.Sprintf("element { 0 : goto %s } of map %s in table inet %s", others.Name, unmarked.set.Name, egressTable.Name))
	}
	for _, p := range c.Pods {
		for _, e := range elementsOfPod(p) {
			have, there, err := k.element(e)
			if err != nil {
				return nil, classifyError(err)
			}
			if !there || !sameValue(e.SetElement, have) {
				missing = append(missing, fmt.Sprintf("element %s of map %s in table inet %s", elementText(p, e), e.set.Name, egressTable.Name))
			}
		}
	}
	return missing, nil
}

// elementText is an element as nft prints it, without the comment.
func elementText(p egress.Classification, e mapElement) string {
	if e.VerdictData != nil {
		return fmt.Sprintf("{ %s : goto %s }", p.Pod, e.VerdictData.Chain)
	}
	return fmt.Sprintf("{ %s }", p)
}

func classifyError(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("table inet %s: %w", egressTable.Name, err)
}
