package kernel

import (
	"fmt"

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
