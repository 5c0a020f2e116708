package kernel

import (
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/egress-ip/egress-ip/pkg/egress"
	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// The table that exists while annotated pods do:
//
//	table inet egress_ip {
//		map unmarked { type mark : verdict; size 1; }            # { 0 : goto others }
//		set links { type iface_index; }                          # egress links
//		set cluster4 { type ipv4_addr; flags interval; }         # and cluster6
//		set cluster4_134 { type ipv4_addr; flags interval; }     # a link, where none is configured; and cluster6_134
//		map snat4 { type ipv4_addr . iface_index : ipv4_addr; }  # pod . link : egress address; and snat6
//		set exit4 { type ipv4_addr . iface_index; }              # egress address . link; and exit6
//		set pods4 { type ipv4_addr . iface_index; }              # pod . where it is; and pods6
//		set bridged4 { type ipv4_addr . ether_addr; }            # pod . its MAC address; and bridged6
//		map out4 { type ipv4_addr : verdict; size 16384; }       # pod : goto out_134, egress address : goto forged; and out6
//		map back4 { type ipv4_addr : verdict; size 16384; }      # pod : goto back_134; and back6
//		map guard4 { type ipv4_addr : verdict; }                 # pod : goto exit_134; and guard6
//		map arrived4 { type ipv4_addr : verdict; }               # address of a link : goto mark_134; and arrived6
//		set dropped4 { type ipv4_addr . iface_index; size 4096; flags dynamic,timeout; timeout 5m; counter; } # and dropped6
//		set forged4 { type ipv4_addr . iface_index; size 4096; flags dynamic,timeout; timeout 5m; counter; }  # and forged6
//		chain prerouting { type filter hook prerouting priority dstnat + 10; ... }
//		chain output { type route hook output priority mangle; ... }
//		chain postrouting { type nat hook postrouting priority -199; ... }
//		chain exit { type filter hook postrouting priority 2147483645; ... }
//		chain out_134 { ... }       # a link, for pods with a link of their own
//		chain bridged_134 { ... }   # a link, for pods on a bridge
//		chain unchecked_134 { ... } # a link, for pods whose source is not checked
//		chain back_134 { ... }      # a link
//		chain mark_134 { ... }      # a link
//		chain exit_134 { ... }      # a link
//		chain inbound { ... }
//		chain inside { ... }
//		chain forged { ... }
//		chain unmarked { ... }
//		chain dropped { ... }
//		chain related { ... }
//		chain others { ... }
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
		// Before everyone's masquerade: the first to translate a connection wins. The kernel
		// has no nat chain before this (nft_chain_validate_hooks: above NF_IP_PRI_CONNTRACK).
		Priority: nftables.ChainPriorityRef(*nftables.ChainPriorityConntrack + 1),
	}
	exit = &nftables.Chain{
		Table: egressTable, Name: egress.Exit, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookPostrouting,
		// Behind everyone's translation, stateless ones too. Only the watcher's guard and
		// NF_IP_PRI_CONNTRACK_CONFIRM are behind it: a connection whose first packet is dropped
		// is not tracked.
		Priority: nftables.ChainPriorityRef(math.MaxInt32 - 2),
	}
	output = &nftables.Chain{
		Table: egressTable, Name: egress.Output, Type: nftables.ChainTypeRoute,
		Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityMangle,
	}
)

// inetFamily is what differs between the two halves of the table.
type inetFamily struct {
	nfproto          byte
	addr             nftables.SetDatatype
	source, dest     func() *expr.Payload
	behindAddr       uint32 // the register behind an address in reg1
	ctSource, ctDest expr.CtKey
}

var inet = map[egress.Family]inetFamily{
	egress.IPv4: {
		unix.NFPROTO_IPV4, nftables.TypeIPAddr, ip4Source, ip4Dest, regBehindIP4,
		expr.CtKeySRCIP, expr.CtKeyDSTIP,
	},
	egress.IPv6: {
		unix.NFPROTO_IPV6, nftables.TypeIP6Addr, ip6Source, ip6Dest, regBehindIP6,
		expr.CtKeySRCIP6, expr.CtKeyDSTIP6,
	},
}

// dropsRemembered is for how long a pod of which something was dropped is remembered.
const dropsRemembered = 5 * time.Minute

// setsOf returns the maps and sets of an address family, in the order in which they are
// made; those that only one link has aside.
func setsOf(family egress.Family) []*nftables.Set {
	addr := inet[family].addr
	atLink := nftables.MustConcatSetType(addr, nftables.TypeIFIndex)
	return []*nftables.Set{
		clusterSet(egressTable, family, family.Cluster()),
		mapTo(addr, concatenated(set(egressTable, family.SNAT(), atLink))),
		concatenated(set(egressTable, family.Exit(), atLink)),
		concatenated(set(egressTable, family.Pods(), atLink)),
		concatenated(set(egressTable, family.Bridged(), nftables.MustConcatSetType(addr, nftables.TypeEtherAddr))),
		ofFixedSize(mapTo(nftables.TypeVerdict, set(egressTable, family.Out(), addr)), mostAddresses),
		ofFixedSize(mapTo(nftables.TypeVerdict, set(egressTable, family.Back(), addr)), mostAddresses),
		mapTo(nftables.TypeVerdict, set(egressTable, family.Guard(), addr)),
		mapTo(nftables.TypeVerdict, set(egressTable, family.Arrived(), addr)),
		remembering(concatenated(set(egressTable, family.Drops(), atLink))),
		remembering(concatenated(set(egressTable, family.Forgeries(), atLink))),
	}
}

// mostAddresses is how many pod addresses and egress addresses an address family may have
// on a node, of which a kubelet runs some hundred pods. A map of it takes 171 KiB.
const mostAddresses = 1 << 14

// ofFixedSize has the kernel keep a map that every packet of the node is looked up in as a hash
// table that does not grow (nft_hash_fast): that is the fastest that it has, by 1.5 % of
// a plain packet.
func ofFixedSize(s *nftables.Set, size uint32) *nftables.Set {
	s.Size = size
	return s
}

func mapTo(data nftables.SetDatatype, s *nftables.Set) *nftables.Set {
	s.IsMap, s.DataType = true, data
	return s
}

func concatenated(s *nftables.Set) *nftables.Set {
	s.Concatenation = true
	return s
}

// remembering makes a set one that rules fill. Its keys are pods and links, so it is
// large enough for all that a node has.
func remembering(s *nftables.Set) *nftables.Set {
	s.Dynamic, s.HasTimeout, s.Timeout, s.Size = true, true, dropsRemembered, 4096
	return s
}

func clusterSet(table *nftables.Table, family egress.Family, name string) *nftables.Set {
	s := set(table, name, inet[family].addr)
	s.Interval = true
	return s
}

func unmarkedMap() *nftables.Set {
	return ofFixedSize(&nftables.Set{
		Table: egressTable, Name: egress.UnmarkedMap, KeyType: nftables.TypeMark, KeyByteOrder: binaryutil.NativeEndian,
		IsMap: true, DataType: nftables.TypeVerdict,
	}, 1)
}

func linkSet() *nftables.Set {
	return &nftables.Set{Table: egressTable, Name: egress.LinkSet, KeyType: nftables.TypeIFIndex, KeyByteOrder: binaryutil.NativeEndian}
}

// sharedSets are the maps and sets that exist with the table.
func sharedSets() []*nftables.Set {
	sets := []*nftables.Set{unmarkedMap(), linkSet()}
	for _, family := range egress.Families {
		sets = append(sets, setsOf(family)...)
	}
	return sets
}

// setsByName are the maps and sets that exist with the table, by their names.
var setsByName = sync.OnceValue(func() map[string]*nftables.Set {
	byName := map[string]*nftables.Set{}
	for _, s := range sharedSets() {
		byName[s.Name] = s
	}
	return byName
})

// setNamed returns the map or set with this name, one of ours.
func setNamed(name string) *nftables.Set {
	if s, ok := setsByName()[name]; ok {
		own := *s // the library writes into it
		return &own
	}
	for _, family := range egress.Families {
		if strings.HasPrefix(name, family.Cluster()+"_") {
			return clusterSet(egressTable, family, name)
		}
	}
	return unmarkedMap()
}

// isCluster reports whether a set is of networks.
func isCluster(set string) bool {
	return strings.HasPrefix(set, egress.IPv4.Cluster()) || strings.HasPrefix(set, egress.IPv6.Cluster())
}

// isRemembering reports whether a set is filled by rules.
func isRemembering(set string) bool {
	return slices.ContainsFunc(egress.Families[:], func(f egress.Family) bool { return set == f.Drops() || set == f.Forgeries() })
}

// isOurName reports whether a chain or set of table inet egress_ip is ours.
func isOurName(name string) bool {
	if _, ok := egress.LinkOf(name); ok {
		return true
	}
	return setsByName()[name] != nil ||
		egress.Chain{Name: name}.Hooked() ||
		slices.Contains([]string{egress.Others, egress.Inbound, egress.Inside, egress.Forged, egress.Unmarked, egress.Dropped, egress.Related}, name) || isFormerName(name)
}

// isFormerName knows what the table had up to version 0.6: it is removed where it is found.
func isFormerName(name string) bool { return isFormerSet(name) || strings.HasPrefix(name, "counted_") }

func isFormerSet(name string) bool { return name == "sent4" || name == "sent6" }

// chainOf returns the chain as it is made: with its hook, if it has one.
func chainOf(c egress.Chain) *nftables.Chain {
	for _, hooked := range []*nftables.Chain{prerouting, output, postrouting, exit} {
		if c.Name == hooked.Name {
			return hooked
		}
	}
	return &nftables.Chain{Table: egressTable, Name: c.Name}
}

// rulesOf returns what is to be in a chain.
func rulesOf(c egress.Chain) [][]expr.Any {
	switch c.Name {
	case egress.Prerouting:
		return preroutingRules(c.Mask)
	case egress.Output:
		return outputRules(c.Mask)
	case egress.Postrouting:
		return postroutingRules(c.Mask)
	case egress.Exit:
		return exitRules(c.Mask)
	case egress.Others:
		return othersRules(c.Mask)
	case egress.Inbound:
		return inboundRules()
	case egress.Inside:
		return insideRules()
	case egress.Forged:
		return forgedRules()
	case egress.Unmarked:
		return unmarkedRules()
	case egress.Dropped:
		return droppedRules()
	case egress.Related:
		return relatedRules()
	}
	switch {
	case c.IsBack():
		return backRules(c.Mark, c.Mask)
	case c.IsExit():
		return linkExitRules(c)
	case c.IsMark():
		return [][]expr.Any{setMark(c.Mark, c.Mask)}
	default:
		return outRules(c)
	}
}
