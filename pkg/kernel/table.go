package kernel

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/egress-ip/egress-ip/pkg/egress"
	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

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
	// be changed into what it is to be: it is to be replaced, see [Kernel.Rebuild].
	Former bool
}

// Classification reads the table inet egress_ip, at one moment.
func (k *Kernel) Classification(want []egress.Chain) (c Classified, err error) {
	err = k.consistent(func() error {
		c, err = k.classification(want)
		return err
	})
	return c, k.classifyError(err)
}

func (k *Kernel) classification(want []egress.Chain) (c Classified, err error) {
	if exists, err := k.hasTable(egressTable); err != nil || !exists {
		return c, err
	}
	sets, err := k.nft.GetSets(egressTable)
	if err != nil {
		return c, fmt.Errorf("read sets: %w", err)
	}
	if slices.ContainsFunc(sets, isFormer) {
		return Classified{Former: true}, nil
	}
	if c.Chains, err = k.chains(want); err != nil {
		return c, err
	}
	c.Sent = map[netip.Addr]Counter{}
	for _, s := range sets {
		if !isOurName(s.Name) || isFormerName(s.Name) {
			continue
		}
		if isRemembering(s.Name) {
			if err := k.drops(s.Name, &c); err != nil {
				return c, err
			}
			continue
		}
		of, err := k.elements(s.Name, c.Sent)
		if err != nil {
			return c, err
		}
		c.Elements = append(c.Elements, of...)
	}
	return c, nil
}

// isFormer reports whether a set is one of ours as another version has made it, or nft, which has loaded
// a listing: it gives sets of concatenations without intervals other flags.
func isFormer(s *nftables.Set) bool {
	if !isOurName(s.Name) || isFormerSet(s.Name) {
		return isOurName(s.Name)
	}
	want := setNamed(s.Name)
	return s.KeyType.Bytes != want.KeyType.Bytes || s.Concatenation != want.Concatenation
}

// IsFormer reports whether another version, or nft out of a listing, has made the table inet egress_ip.
func (k *Kernel) IsFormer() (bool, error) {
	s, err := k.nft.GetSetByName(egressTable, egress.IPv4.SNAT())
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	return err == nil && isFormer(s), k.classifyError(err)
}

// Rebuild replaces the table inet egress_ip by one with these chains and elements, in one
// transaction. Connections keep the translation that they have.
func (k *Kernel) Rebuild(chains []egress.Chain, elements []egress.Element) error {
	return k.classifyError(k.transaction(func(tx *nftables.Conn) error {
		tx.AddTable(egressTable)
		tx.DelTable(egressTable)
		if len(chains) == 0 {
			return nil
		}
		if err := putUp(tx, chains); err != nil {
			return err
		}
		of := map[string][]egress.Element{}
		for _, e := range elements {
			of[e.Set] = append(of[e.Set], e)
		}
		for name, all := range of {
			add := addElements
			if isCluster(name) {
				add = addNetworks
			}
			if err := add(tx, name, all...); err != nil {
				return err
			}
		}
		return nil
	}))
}

// drops reads a set that rules fill.
func (k *Kernel) drops(set string, c *Classified) error {
	found, err := k.nft.GetSetElements(setNamed(set))
	if err != nil && !errors.Is(err, unix.ENOENT) {
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

func (k *Kernel) chains(want []egress.Chain) ([]egress.Chain, error) {
	wrong, err := k.wrongChains(want)
	if err != nil {
		return nil, err
	}
	all, err := k.nft.ListChainsOfTableFamily(egressTable.Family)
	if err != nil {
		return nil, fmt.Errorf("read chains: %w", err)
	}
	wanted := map[string]bool{}
	for _, c := range want {
		wanted[c.Name] = true
	}
	standing := map[string]bool{}
	var others []egress.Chain
	for _, c := range all {
		if c.Table.Name != egressTable.Name {
			continue
		}
		standing[c.Name] = sameHook(chainOf(egress.Chain{Name: c.Name}), c)
		if !wanted[c.Name] && isOurName(c.Name) {
			others = append(others, egress.Chain{Name: c.Name})
		}
	}
	have := slices.DeleteFunc(egress.Missing(want, wrong), func(c egress.Chain) bool { return !standing[c.Name] })
	return append(have, others...), nil
}

// sameHook reports whether packets come to a chain from where, when and with what
// policy they do to the one that is wanted.
func sameHook(want, have *nftables.Chain) bool {
	if want.Hooknum == nil || have.Hooknum == nil {
		return want.Hooknum == have.Hooknum
	}
	return *want.Hooknum == *have.Hooknum && have.Priority != nil && *want.Priority == *have.Priority &&
		want.Type == have.Type && have.Policy != nil && *have.Policy == nftables.ChainPolicyAccept
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

// podsAtOnce is how many pods' elements are written in one transaction: far below
// what a socket's send buffer takes (some 500 bytes a pod of 200 KB).
const podsAtOnce = 100

// Reclassify takes out of the table what is surplus and puts in what is missing.
// Pods' elements come before the chains through which packets reach them: a pod
// that these do not know is taken for one of no egress.
//
// Cluster are all elements that are wanted of cluster sets, and chains all chains.
func (k *Kernel) Reclassify(missing, surplus egress.State, chains []egress.Chain, cluster []egress.Element) error {
	var hooked, unhooked []egress.Chain
	for _, c := range missing.Chains {
		if c.Hooked() {
			hooked = append(hooked, c)
		} else {
			unhooked = append(unhooked, c)
		}
	}
	err := k.transaction(func(tx *nftables.Conn) error {
		if err := putUp(tx, unhooked); err != nil {
			return err
		}
		return k.setCluster(tx, clusterSets(chains), cluster)
	})
	if err != nil {
		return k.classifyError(err)
	}
	if err := k.replaceElements(missing.Elements, surplus.Elements); err != nil {
		return k.classifyError(err)
	}
	return k.classifyError(k.transaction(func(tx *nftables.Conn) error {
		// A hook cannot be changed, so what exists of a hooked chain goes first.
		for _, c := range hooked {
			there, err := k.hasChain(chainOf(c))
			if err != nil {
				return err
			}
			if there {
				deleteChains(tx, c)
			}
		}
		if err := putUp(tx, hooked); err != nil {
			return err
		}
		deleteChains(tx, surplus.Chains...)
		return k.deleteSets(tx, nil, clusterSets(chains))
	}))
}

// deleteSets deletes the cluster sets of these links, nil: of all, but those that are wanted.
func (k *Kernel) deleteSets(tx *nftables.Conn, links []int, wanted []string) error {
	names, err := k.namesIn(egressTable)
	if err != nil {
		return err
	}
	for _, name := range names {
		index, _ := egress.LinkOf(name)
		if isCluster(name) && !slices.Contains(wanted, name) && (links == nil || slices.Contains(links, index)) {
			tx.DelSet(setNamed(name))
		}
	}
	return nil
}

// deleteChains deletes chains, which may go to each other.
func deleteChains(tx *nftables.Conn, chains ...egress.Chain) {
	for _, c := range chains {
		tx.FlushChain(chainOf(c))
	}
	for _, c := range chains {
		tx.DelChain(chainOf(c))
	}
}

// replaceElements writes the elements of pods, all of a pod in one transaction: one
// that is classified and not translated would leave with its own address.
func (k *Kernel) replaceElements(missing, surplus []egress.Element) error {
	type change struct{ add, del []egress.Element }
	changes := map[netip.Addr]*change{}
	var pods []netip.Addr
	of := func(e egress.Element) *change {
		c, ok := changes[e.Pod]
		if !ok {
			c = &change{}
			changes[e.Pod] = c
			pods = append(pods, e.Pod)
		}
		return c
	}
	for _, e := range missing {
		if !e.Net.IsValid() {
			of(e).add = append(of(e).add, e)
		}
	}
	for _, e := range surplus {
		if !isCluster(e.Set) {
			of(e).del = append(of(e).del, e)
		}
	}
	for len(pods) > 0 {
		several := pods[:min(len(pods), podsAtOnce)]
		pods = pods[len(several):]
		add, del := map[string][]egress.Element{}, map[string][]egress.Element{}
		for _, pod := range several {
			for _, e := range changes[pod].add {
				add[e.Set] = append(add[e.Set], e)
			}
			for _, e := range changes[pod].del {
				del[e.Set] = append(del[e.Set], e)
			}
		}
		err := k.transaction(func(tx *nftables.Conn) error {
			for _, s := range sharedSets() {
				if err := errors.Join(deleteElements(tx, s.Name, del[s.Name]...), addElements(tx, s.Name, add[s.Name]...)); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}
