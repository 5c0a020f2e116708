package kernel

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/egress-ip/egress-ip/pkg/egress"
	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// egressTable is table inet egress_ip, which exists while annotated pods do. Its maps and sets are
// those of sharedSets, and, where no cluster networks are configured, of each link with ifindex 134
//
//	set cluster4_134 { type ipv4_addr; flags interval; }  # and cluster6_134
//
// Its chains are those of sharedRules, four of which are hooks, and, of each link, those of [rulesOf].
var egressTable = &nftables.Table{Family: nftables.TableFamilyINet, Name: "egress_ip"}

// hooks are the chains to which packets come from the kernel.
var hooks = map[string]*nftables.Chain{
	egress.Prerouting: { // type filter hook prerouting priority dstnat + 10
		Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookPrerouting,
		// Behind everyone's DNAT: the real destination counts, a Service's backend.
		Priority: nftables.ChainPriorityRef(*nftables.ChainPriorityNATDest + 10),
	},
	egress.Output: { // type route hook output priority mangle
		Type: nftables.ChainTypeRoute, Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityMangle,
	},
	egress.Postrouting: { // type nat hook postrouting priority -199
		Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookPostrouting,
		// Before everyone's masquerade: the first to translate a connection wins. The kernel
		// has no nat chain before this (nft_chain_validate_hooks: above NF_IP_PRI_CONNTRACK).
		Priority: nftables.ChainPriorityRef(*nftables.ChainPriorityConntrack + 1),
	},
	egress.Exit: { // type filter hook postrouting priority 2147483645
		Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookPostrouting,
		// Behind everyone's translation, stateless ones too. Only the watcher's guard and
		// NF_IP_PRI_CONNTRACK_CONFIRM are behind it: a connection whose first packet is dropped
		// is not tracked.
		Priority: nftables.ChainPriorityRef(math.MaxInt32 - 2),
	},
}

// chainNamed returns the chain as it is made: with its hook, if it has one.
func chainNamed(name string) *nftables.Chain {
	c := &nftables.Chain{}
	if hook, ok := hooks[name]; ok {
		*c = *hook
	}
	c.Table, c.Name = egressTable, name
	return c
}

const (
	// dropsRemembered is for how long a pod of which something was dropped is remembered.
	dropsRemembered = 5 * time.Minute
	// mostDrops are pods and links: enough for all that a node has.
	mostDrops = 4096
	// mostAddresses is how many pod addresses and egress addresses an address family may have
	// on a node, of which a kubelet runs some hundred pods. A map of it takes 171 KiB. The kernel keeps
	// one with a size as a hash table that does not grow (nft_hash_fast), the fastest that it has, by
	// 1.5 % of a plain packet; every packet of the node is looked up there.
	mostAddresses = 1 << 14
)

// with is the type of an address and something behind it.
func (f ipFamily) with(behind nftables.SetDatatype) nftables.SetDatatype {
	return nftables.MustConcatSetType(f.addr, behind)
}

// sharedSets are the maps and sets that exist with the table, in the order in which they are made.
func sharedSets() []*nftables.Set {
	verdict := nftables.TypeVerdict
	sets := []*nftables.Set{
		// map unmarked { type mark : verdict; size 1; }  # { 0 : goto others }
		{Name: egress.UnmarkedMap, KeyType: nftables.TypeMark, IsMap: true, DataType: verdict, Size: 1},
		// set links { type iface_index; }  # egress links
		{Name: egress.LinkSet, KeyType: nftables.TypeIFIndex},
	}
	for _, f := range ipFamilies {
		atLink, atMAC := f.with(nftables.TypeIFIndex), f.with(nftables.TypeEtherAddr)
		sets = append(sets, []*nftables.Set{
			// set cluster4 { type ipv4_addr; flags interval; }
			{Name: f.Cluster(), KeyType: f.addr, Interval: true},
			// map snat4 { type ipv4_addr . iface_index : ipv4_addr; }  # pod . link : egress address
			{Name: f.SNAT(), KeyType: atLink, Concatenation: true, IsMap: true, DataType: f.addr},
			// set exit4 { type ipv4_addr . iface_index; }  # egress address . link
			{Name: f.Exit(), KeyType: atLink, Concatenation: true},
			// set pods4 { type ipv4_addr . iface_index; }  # pod . where it is
			{Name: f.Pods(), KeyType: atLink, Concatenation: true},
			// set bridged4 { type ipv4_addr . ether_addr; }  # pod . its MAC address
			{Name: f.Bridged(), KeyType: atMAC, Concatenation: true},
			// map out4 { type ipv4_addr : verdict; size 16384; }  # pod : goto out_134, egress address : goto forged
			{Name: f.Out(), KeyType: f.addr, IsMap: true, DataType: verdict, Size: mostAddresses},
			// map back4 { type ipv4_addr : verdict; size 16384; }  # pod : goto back_134
			{Name: f.Back(), KeyType: f.addr, IsMap: true, DataType: verdict, Size: mostAddresses},
			// map guard4 { type ipv4_addr : verdict; }  # pod : goto exit_134
			{Name: f.Guard(), KeyType: f.addr, IsMap: true, DataType: verdict},
			// map arrived4 { type ipv4_addr : verdict; }  # address of a link : goto mark_134
			{Name: f.Arrived(), KeyType: f.addr, IsMap: true, DataType: verdict},
			// set dropped4 { type ipv4_addr . iface_index; size 4096; flags dynamic,timeout; timeout 5m; counter; }
			{Name: f.Drops(), KeyType: atLink, Concatenation: true, Dynamic: true, HasTimeout: true, Timeout: dropsRemembered, Size: mostDrops},
			// set forged4, which is like dropped4
			{Name: f.Forgeries(), KeyType: atLink, Concatenation: true, Dynamic: true, HasTimeout: true, Timeout: dropsRemembered, Size: mostDrops},
		}...)
	}
	return inTable(egressTable, sets)
}

// setsByName are the maps and sets that exist with the table, by their names.
var setsByName = sync.OnceValue(func() map[string]nftables.Set {
	byName := map[string]nftables.Set{}
	for _, s := range sharedSets() {
		byName[s.Name] = *s
	}
	return byName
})

// setNamed returns the map or set with this name, one of ours. That of a link's cluster networks,
// cluster4_134, is like that of all links, cluster4.
func setNamed(name string) *nftables.Set {
	s, ok := setsByName()[name]
	if !ok {
		shared, _, _ := strings.Cut(name, "_")
		s = setsByName()[shared]
		s.Table, s.Name = egressTable, name
	}
	return &s // its own: the library writes into it
}

// isOurName reports whether a chain or set of table inet egress_ip is ours.
func isOurName(name string) bool {
	_, ofLink := egress.LinkOf(name)
	_, isSet := setsByName()[name]
	return ofLink || isSet || sharedRules[name] != nil || isFormerName(name)
}

// isFormerName knows what the table had up to version 0.6: it is removed where it is found.
func isFormerName(name string) bool {
	return name == "sent4" || name == "sent6" || strings.HasPrefix(name, "counted_")
}

// isFormer reports whether a set is one of ours as another version has made it, or nft, which has loaded
// a listing: it gives sets of concatenations without intervals other flags.
func isFormer(s *nftables.Set) bool {
	want := setNamed(s.Name)
	return isFormerName(s.Name) ||
		isOurName(s.Name) && (s.KeyType.Bytes != want.KeyType.Bytes || s.Concatenation != want.Concatenation)
}

// clusterSets returns the names of the sets of networks that chains refer to, and of those
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

// Counter counts packets and their bytes, IP headers included.
type Counter struct{ Packets, Bytes uint64 }

// Drop is what one of egress-ip's chains has dropped of a pod in the last minutes.
type Drop struct {
	Pod  netip.Addr
	Link int // ifindex of the link by which it would have left, or by which it arrived
	Counter
	Last time.Duration // ago
}

// Classified is the table inet egress_ip as it is.
type Classified struct {
	// Chains are the wanted ones that are as they should be, and every other of ours by
	// its name alone.
	Chains   []egress.Chain
	Elements []egress.Element
	Sent     map[netip.Addr]Counter // by pods that are counted, to their links
	Dropped  []Drop                 // by the guard
	Forged   []Drop                 // with a pod's source, and from elsewhere
	// Former: another version has made the table, of which nothing is read. No part of it can
	// be changed into what it is to be: it is to be replaced.
	Former bool
}

// Classification reads the table inet egress_ip, at one moment.
func (k *Kernel) Classification(want []egress.Chain) (c Classified, err error) {
	_, err = k.consistent(func() error {
		c = Classified{Sent: map[netip.Addr]Counter{}}
		sets, err := k.nft.GetSets(egressTable)
		if ok, err := exists(err); err != nil {
			return fmt.Errorf("read sets: %w", err)
		} else if !ok {
			return nil
		}
		if slices.ContainsFunc(sets, isFormer) {
			c.Former = true
			return nil
		}
		if c.Chains, err = k.chains(want); err != nil {
			return err
		}
		for _, s := range sets {
			if !isOurName(s.Name) {
				continue
			}
			if setNamed(s.Name).Dynamic {
				err = k.drops(s.Name, &c)
			} else {
				var of []egress.Element
				of, err = k.elements(s.Name, c.Sent)
				c.Elements = append(c.Elements, of...)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	return c, k.classifyError(err)
}

// drops reads a set that rules fill.
func (k *Kernel) drops(set string, c *Classified) error {
	found, err := k.nft.GetSetElements(setNamed(set))
	if _, err := exists(err); err != nil {
		return err
	}
	for _, s := range found {
		e := fromSetElement(set, s)
		d := Drop{Pod: e.Pod, Link: e.Link, Last: max(0, dropsRemembered-s.Expires)}
		if s.Counter != nil {
			d.Counter = Counter{s.Counter.Packets, s.Counter.Bytes}
		}
		if set == egress.FamilyOf(e.Pod).Drops() {
			c.Dropped = append(c.Dropped, d)
		} else {
			c.Forged = append(c.Forged, d)
		}
	}
	return nil
}

// chains reads which of the wanted chains are as they should be, and names the others of ours.
func (k *Kernel) chains(want []egress.Chain) (have []egress.Chain, err error) {
	all, err := k.nft.ListChainsOfTableFamily(egressTable.Family)
	if err != nil {
		return nil, fmt.Errorf("read chains: %w", err)
	}
	hooked, others := map[string]bool{}, []egress.Chain{}
	for _, c := range all {
		if c.Table.Name != egressTable.Name {
			continue
		}
		hooked[c.Name] = sameHook(chainNamed(c.Name), c)
		if isOurName(c.Name) && !slices.ContainsFunc(want, func(w egress.Chain) bool { return w.Name == c.Name }) {
			others = append(others, egress.Chain{Name: c.Name})
		}
	}
	right, err := k.withRules(want)
	if err != nil {
		return nil, err
	}
	return append(only(right, func(c egress.Chain) bool { return hooked[c.Name] }), others...), nil
}

// withRules returns those of the chains whose rules are as they should be.
func (k *Kernel) withRules(chains []egress.Chain) (right []egress.Chain, err error) {
	for _, c := range chains {
		have, err := k.rulesIn(chainNamed(c.Name))
		if err != nil {
			return nil, err
		}
		if sameRules(rulesOf(c), have) {
			right = append(right, c)
		}
	}
	return right, nil
}

// ClassificationAt reads, of the table inet egress_ip, which of these chains are as they should
// be, and what it has in the places of these elements, at one moment: the elements with their
// keys, whatever they lead to and whosever they are; and all of the cluster sets of which it has
// elements.
func (k *Kernel) ClassificationAt(of egress.State) (c Classified, err error) {
	if generation, err := k.generation(); err != nil || k.known.is(of, generation) {
		return k.known.have, k.classifyError(err)
	}
	generation, err := k.consistent(func() error {
		c = Classified{}
		s, err := k.nft.GetSetByName(egressTable, egress.IPv4.SNAT())
		if ok, err := exists(err); err != nil {
			return err
		} else if c.Former = ok && isFormer(s); c.Former {
			return nil
		}
		if c.Chains, err = k.withRules(of.Chains); err != nil {
			return err
		}
		for _, set := range networkSets(of) {
			networks, err := k.elements(set, nil)
			if err != nil {
				return err
			}
			c.Elements = append(c.Elements, networks...)
		}
		for _, e := range of.Elements {
			if e.Net.IsValid() {
				continue
			}
			if have, exists, err := k.element(e); err != nil {
				return err
			} else if exists {
				c.Elements = append(c.Elements, have)
			}
		}
		return nil
	})
	k.known = known{generation, of, c}
	return c, k.classifyError(err)
}

// networkSets returns the cluster sets that a state says all of: where it has chains, those that
// exist with the table, and those of which it has networks.
func networkSets(of egress.State) []string {
	if len(of.Chains) == 0 {
		return nil
	}
	sets := clusterSets(nil)
	for _, e := range of.Elements {
		if e.Net.IsValid() && !slices.Contains(sets, e.Set) {
			sets = append(sets, e.Set)
		}
	}
	return sets
}

// known is what has been read of the table, and, since the kernel numbers transactions
// (nf_tables_commit), need not be read again as long as nobody else has written.
type known struct {
	generation uint32 // 0: nothing
	of         egress.State
	have       Classified
}

// is reports whether it is about these, in this generation.
func (k known) is(of egress.State, generation uint32) bool {
	return k.generation == generation && slices.Equal(k.of.Chains, of.Chains) && slices.Equal(k.of.Elements, of.Elements)
}

// OwnerOf returns the owner, a container ID, that the table inet egress_ip has for a
// pod address; ok is false where it does not have the pod.
func (k *Kernel) OwnerOf(pod netip.Addr) (owner string, ok bool, err error) {
	e, ok, err := k.element(egress.Element{Set: egress.FamilyOf(pod).Out(), Pod: pod})
	return e.Owner, ok, k.classifyError(err)
}

// PodElements returns the elements of pods in the table inet egress_ip that match.
func (k *Kernel) PodElements(match func(egress.Element) bool) ([]egress.Element, error) {
	return k.matching(match, egress.Family.Out, egress.Family.Back, egress.Family.Guard, egress.Family.SNAT, egress.Family.Pods, egress.Family.Bridged)
}

// ArrivedElements returns the elements that lead to links' chains for what arrives by them.
func (k *Kernel) ArrivedElements(chains []egress.Chain) ([]egress.Element, error) {
	return k.matching(func(e egress.Element) bool {
		return slices.ContainsFunc(chains, func(c egress.Chain) bool { return c.Name == e.Chain })
	}, egress.Family.Arrived)
}

func (k *Kernel) matching(match func(egress.Element) bool, sets ...func(egress.Family) string) (found []egress.Element, err error) {
	_, err = k.consistent(func() error {
		found = nil
		for _, f := range egress.Families {
			for _, set := range sets {
				elements, err := k.elements(set(f), nil)
				if err != nil {
					return err
				}
				found = append(found, only(elements, match)...)
			}
		}
		return nil
	})
	return found, k.classifyError(err)
}

// ClassificationIsForeign reports whether the name of the table inet egress_ip is
// somebody else's.
func (k *Kernel) ClassificationIsForeign() (bool, error) {
	names, err := k.namesIn(egressTable)
	return slices.ContainsFunc(names, isForeignName), err
}

func isForeignName(name string) bool { return !isOurName(name) }

// rewriteTable changes the table inet egress_ip, in one transaction: no packet meets a pod that is
// classified and not translated, or chains that do not know it. Connections keep the
// translation that they have.
func (k *Kernel) rewriteTable(c Change) error {
	if len(c.Missing.Chains)+len(c.Missing.Elements)+len(c.Surplus.Chains)+len(c.Surplus.Elements) == 0 && !c.Replace {
		return nil
	}
	err := k.transaction(func(tx *nftables.Conn) error { return k.rewrite(tx, c) })
	if err == nil {
		err = k.confirm(c)
	}
	return k.classifyError(err)
}

func (k *Kernel) rewrite(tx *nftables.Conn, c Change) (err error) {
	if c.Replace || c.Remove {
		deleteTable(tx, egressTable)
	}
	if c.Remove {
		return nil
	}
	var names []string // that exist
	if len(c.Missing.Chains)+len(c.Surplus.Chains) > 0 && !c.Replace {
		if names, err = k.namesIn(egressTable); err != nil {
			return err
		}
	}
	exists := func(c egress.Chain) bool { return slices.Contains(names, c.Name) }
	if len(c.Missing.Chains) > 0 {
		// A hook cannot be changed, so what exists of a hooked chain goes first.
		deleteChains(tx, c.Missing.Chains, func(c egress.Chain) bool { return c.Hooked() && exists(c) })
		tx.AddTable(egressTable)
		sets := sharedSets()
		for _, name := range clusterSets(c.Missing.Chains) {
			sets = append(sets, setNamed(name))
		}
		for _, s := range sets {
			if err := tx.AddSet(s, nil); err != nil {
				return err
			}
		}
		for _, chain := range c.Missing.Chains {
			tx.AddChain(chainNamed(chain.Name)) // all of them first: rules go to other chains
		}
		for _, chain := range c.Missing.Chains {
			setRules(tx, chainNamed(chain.Name), rulesOf(chain))
		}
	}
	unneeded := unneededSets(names, c)
	if err := rewriteElements(tx, c, unneeded); err != nil {
		return err
	}
	deleteChains(tx, c.Surplus.Chains, exists)
	for _, name := range unneeded {
		tx.DelSet(setNamed(name))
	}
	return nil
}

// rewriteElements deletes before it adds: adding an element that exists keeps its comment, or,
// with another value, fails. A set of networks is written as a whole.
func rewriteElements(tx *nftables.Conn, c Change, unneeded []string) error {
	var sets []string
	for _, e := range slices.Concat(c.Missing.Elements, c.Surplus.Elements) {
		if !slices.Contains(sets, e.Set) && !slices.Contains(unneeded, e.Set) {
			sets = append(sets, e.Set)
		}
	}
	for _, name := range sets {
		var err error
		if set := setNamed(name); set.Interval {
			err = replaceNetworks(tx, set, c.Want.Elements)
		} else {
			err = errors.Join(deleteElements(tx, set, c.Surplus.Elements), addElements(tx, set, c.Missing.Elements))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// unneededSets returns the cluster sets, among these names, of the links whose chains or
// networks change, and that no wanted chain names.
func unneededSets(names []string, c Change) []string {
	links := map[int]bool{}
	touch := func(name string) {
		if index, ok := egress.LinkOf(name); ok {
			links[index] = true
		}
	}
	for _, chain := range slices.Concat(c.Missing.Chains, c.Surplus.Chains) {
		touch(chain.Name)
	}
	for _, e := range c.Surplus.Elements {
		touch(e.Set)
	}
	wanted := clusterSets(c.Want.Chains)
	return only(names, func(name string) bool {
		index, _ := egress.LinkOf(name)
		return links[index] && setNamed(name).Interval && !slices.Contains(wanted, name)
	})
}

// confirm brings what is known of the table up to date, if this was all that has been written
// since it was read.
func (k *Kernel) confirm(c Change) error {
	before := k.known
	k.known = known{}
	generation, err := k.generation()
	if err != nil || before.generation == 0 || generation != before.generation+1 || c.Remove || c.Replace {
		return err
	}
	have := before.have
	have.Chains = append(egress.Missing(have.Chains, c.Surplus.Chains), c.Missing.Chains...)
	have.Elements = append(egress.Missing(have.Elements, c.Surplus.Elements), c.Missing.Elements...)
	k.known = known{generation, before.of, have}
	return nil
}

// deleteChains deletes some chains, which may go to each other.
func deleteChains(tx *nftables.Conn, chains []egress.Chain, which func(egress.Chain) bool) {
	for _, do := range []func(*nftables.Chain){tx.FlushChain, tx.DelChain} {
		for _, c := range chains {
			if which(c) {
				do(chainNamed(c.Name))
			}
		}
	}
}

// ForgetDrops empties what the guard remembers.
func (k *Kernel) ForgetDrops() error {
	return k.classifyError(k.transaction(func(tx *nftables.Conn) error {
		if exists, err := k.hasTable(egressTable); err != nil || !exists {
			return err
		}
		for _, f := range egress.Families {
			tx.FlushSet(setNamed(f.Drops()))
		}
		return nil
	}))
}

func (k *Kernel) classifyError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.ENFILE):
		return fmt.Errorf("table inet %s has room for %d addresses of pods and egress addresses per address family, and they are taken: %w", egressTable.Name, mostAddresses, err)
	}
	return fmt.Errorf("table inet %s: %w", egressTable.Name, k.nftError(err))
}
