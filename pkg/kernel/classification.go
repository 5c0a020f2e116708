package kernel

import (
	"strings"

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
//		set sent4 { type ipv4_addr; counter; }               # and sent6, both only where something is counted
//		chain out_134 { ... }                                # a link
//		chain counted_134 { ... }                            # a link, for pods that are counted
//		chain back_134 { ... }                               # a link
//		chain others { ... }
//		chain postrouting { type nat hook postrouting priority srcnat - 10; ... }
//		chain exit { type filter hook postrouting priority 400; ... }
//	}
var (
	egressTable = &nftables.Table{Family: nftables.TableFamilyINet, Name: "egress_ip"}

	prerouting = &nftables.Chain{
		Table: egressTable, Name: egress.Prerouting, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookPrerouting,
		// Behind everyone's DNAT: the real destination counts, a Service's backend.
		Priority: nftables.ChainPriorityRef(*nftables.ChainPriorityNATDest + 10),
	}
	postrouting = &nftables.Chain{
		Table: egressTable, Name: egress.Postrouting, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPostrouting,
		// Before everyone's masquerade: the first to translate a connection wins.
		Priority: nftables.ChainPriorityRef(*nftables.ChainPriorityNATSource - 10),
	}
	exit = &nftables.Chain{
		Table: egressTable, Name: egress.Exit, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookPostrouting,
		// Behind everyone who looks at the mark.
		Priority: nftables.ChainPriorityRef(400),
	}
	output = &nftables.Chain{
		Table: egressTable, Name: egress.Output, Type: nftables.ChainTypeRoute,
		Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityMangle,
	}
)

// inetFamily is what differs between the two halves of the table.
type inetFamily struct {
	nfproto      byte
	addr         nftables.SetDatatype
	source, dest func() *expr.Payload
	behindAddr   uint32 // the register behind an address in reg1
	ctSource     expr.CtKey

	out, back, snat, cluster, sent string
}

var inet = map[egress.Family]inetFamily{
	egress.IPv4: {
		unix.NFPROTO_IPV4, nftables.TypeIPAddr, ip4Source, ip4Dest, regBehindIP4,
		expr.CtKeySRCIP,
		egress.IPv4.Out(), egress.IPv4.Back(), egress.IPv4.SNAT(), egress.IPv4.Cluster(), egress.IPv4.Sent(),
	},
	egress.IPv6: {
		unix.NFPROTO_IPV6, nftables.TypeIP6Addr, ip6Source, ip6Dest, regBehindIP6,
		expr.CtKeySRCIP6,
		egress.IPv6.Out(), egress.IPv6.Back(), egress.IPv6.SNAT(), egress.IPv6.Cluster(), egress.IPv6.Sent(),
	},
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

// sentSet gives each of its elements a counter.
func (f inetFamily) sentSet() *nftables.Set {
	s := set(egressTable, f.sent, f.addr)
	s.Counter = true
	return s
}

func unmarkedMap() *nftables.Set {
	return &nftables.Set{
		Table: egressTable, Name: egress.Unmarked, KeyType: nftables.TypeMark, KeyByteOrder: binaryutil.NativeEndian,
		IsMap: true, DataType: nftables.TypeVerdict,
	}
}

// rulesOf returns what is to be in a chain.
func rulesOf(c egress.Chain) [][]expr.Any {
	switch {
	case c.Name == egress.Prerouting:
		return preroutingRules(c.Mask)
	case c.Name == egress.Output:
		return outputRules()
	case c.Name == egress.Postrouting:
		return postroutingRules()
	case c.Name == egress.Exit:
		return exitRules(c.Mask)
	case c.Name == egress.Others:
		return othersRules(c.Mask)
	case strings.HasPrefix(c.Name, "out_"):
		return outRules(c.Mark, c.Mask, false)
	case isCounted(c):
		return outRules(c.Mark, c.Mask, true)
	default:
		return backRules(c.Mark, c.Mask)
	}
}

func isCounted(c egress.Chain) bool { return strings.HasPrefix(c.Name, "counted_") }

// chainOf returns the chain as it is made: with its hook, if it has one.
func chainOf(c egress.Chain) *nftables.Chain {
	for _, hooked := range []*nftables.Chain{prerouting, output, postrouting, exit} {
		if c.Name == hooked.Name {
			return hooked
		}
	}
	return &nftables.Chain{Table: egressTable, Name: c.Name}
}

// setNamed returns the map or set with this name.
func setNamed(name string) *nftables.Set {
	for _, f := range inet {
		switch name {
		case f.out, f.back:
			return f.verdictMap(name)
		case f.snat:
			return f.snatMap()
		case f.cluster:
			return f.clusterSet()
		case f.sent:
			return f.sentSet()
		}
	}
	return unmarkedMap()
}

// setNames are all maps and sets, in the order in which they are made.
func setNames() []string {
	names := []string{egress.Unmarked}
	for _, f := range egress.Families {
		names = append(names, f.Cluster(), f.SNAT(), f.Out(), f.Back(), f.Sent())
	}
	return names
}
