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
	// be changed into what it is to be: it is to be replaced.
	Former bool
}

// Classification reads the table inet egress_ip, at one moment.
func (k *Kernel) Classification(want []egress.Chain) (c Classified, err error) {
	_, err = k.consistent(func() error {
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

// isFormer reports whether another version, or nft out of a listing, has made the table inet egress_ip.
func (k *Kernel) isFormer() (bool, error) {
	s, err := k.nft.GetSetByName(egressTable, egress.IPv4.SNAT())
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	return err == nil && isFormer(s), err
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

// wrongChains returns those that are not in the kernel as they should be.
func (k *Kernel) wrongChains(chains []egress.Chain) ([]egress.Chain, error) {
	var wrong []egress.Chain
	for _, c := range chains {
		have, err := k.rulesIn(egressTable, c.Name)
		if err != nil {
			return nil, err
		}
		if !sameRules(rulesOf(c), have) {
			wrong = append(wrong, c)
		}
	}
	return wrong, nil
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
		if c.Former, err = k.isFormer(); err != nil || c.Former {
			return err
		}
		wrong, err := k.wrongChains(of.Chains)
		if err != nil {
			return err
		}
		c.Chains = egress.Missing(of.Chains, wrong)
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
	return k.matching(func(f egress.Family) []string {
		return []string{f.Out(), f.Back(), f.Guard(), f.SNAT(), f.Pods(), f.Bridged()}
	}, match)
}

// ArrivedElements returns the elements that lead to links' chains for what arrives by them.
func (k *Kernel) ArrivedElements(chains []egress.Chain) ([]egress.Element, error) {
	return k.matching(func(f egress.Family) []string { return []string{f.Arrived()} }, func(e egress.Element) bool {
		return slices.ContainsFunc(chains, func(c egress.Chain) bool { return c.Name == e.Chain })
	})
}

func (k *Kernel) matching(sets func(egress.Family) []string, match func(egress.Element) bool) (found []egress.Element, err error) {
	_, err = k.consistent(func() error {
		found = nil
		for _, f := range egress.Families {
			for _, set := range sets(f) {
				elements, err := k.elements(set, nil)
				if err != nil {
					return err
				}
				found = append(found, slices.DeleteFunc(elements, func(e egress.Element) bool { return !match(e) })...)
			}
		}
		return nil
	})
	return found, k.classifyError(err)
}
