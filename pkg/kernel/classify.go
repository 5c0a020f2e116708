package kernel

import (
	"errors"
	"fmt"
	"slices"

	"github.com/egress-ip/egress-ip/pkg/egress"
	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

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

// putUp adds the table, what is missing of its sets, and these chains.
func putUp(tx *nftables.Conn, chains []egress.Chain) error {
	tx.AddTable(egressTable)
	sets := sharedSets()
	for _, name := range clusterSets(chains) {
		sets = append(sets, setNamed(name))
	}
	for _, s := range sets {
		if err := tx.AddSet(s, nil); err != nil {
			return err
		}
	}
	for _, c := range chains {
		tx.AddChain(chainOf(c))
	}
	for _, c := range chains {
		setRules(tx, chainOf(c), rulesOf(c))
	}
	return nil
}

// ErrIncomplete says that the table does not have what all attachments need.
var ErrIncomplete = errors.New("it is incomplete")

// Classify installs what is missing or not right of the table, makes the cluster
// sets these, and the elements of these pods these, in one transaction. Elements
// of other pods stay.
//
// Whether others are to have elements there the caller knows. Then a table that somebody has
// deleted or flushed is not written, and the error is [ErrIncomplete]: the chains without the
// elements would take the others' pods for plain ones.
func (k *Kernel) Classify(c egress.Classes, others bool) error {
	before, err := k.generation()
	if err != nil {
		return k.classifyError(err)
	}
	if err := k.transaction(func(tx *nftables.Conn) error { return k.classify(tx, c, others) }); err != nil {
		return k.classifyError(err)
	}
	after, err := k.generation()
	if err == nil && after == before+1 {
		k.classified = confirmation{after, c}
	}
	return k.classifyError(err)
}

// confirmation says that in a generation of nf_tables all of these classes are there: they
// were read in the one before, and what was missing is all that has been written since. The
// kernel numbers transactions (nf_tables_commit), so nothing needs to be read again as long
// as nobody else has written.
type confirmation struct {
	generation uint32 // 0: of nothing
	classes    egress.Classes
}

// of reports whether it is about these classes, in this generation.
func (have confirmation) of(c egress.Classes, generation uint32) bool {
	return have.generation == generation && slices.Equal(have.classes.Chains(), c.Chains()) && slices.Equal(have.classes.Pods, c.Pods)
}

func (k *Kernel) classify(tx *nftables.Conn, c egress.Classes, others bool) error {
	chains := c.Chains()
	wrong, err := k.wrongChains(chains)
	if err != nil {
		return err
	}
	if others {
		_, exists, err := k.element(egress.UnmarkedElement())
		if err != nil {
			return err
		}
		if !exists || slices.ContainsFunc(wrong, func(c egress.Chain) bool { return c.IsShared() }) {
			return ErrIncomplete
		}
	}
	if len(wrong) > 0 {
		if err := putUp(tx, wrong); err != nil {
			return err
		}
		if err := k.deleteSets(tx, c.Links(), clusterSets(chains)); err != nil {
			return err
		}
	}
	if err := k.setCluster(tx, c.ClusterSets(), c.ClusterElements()); err != nil {
		return err
	}
	for _, e := range append(c.PodElements(), c.SharedElements()...) {
		if err := k.setElement(tx, e); err != nil {
			return err
		}
	}
	return nil
}

// Gone is what a call takes out of the table inet egress_ip.
type Gone struct {
	// Elements go if they are exactly these: one that belongs to another container by now stays.
	Elements []egress.Element
	Chains   []string
	Links    []int // ifindexes of the links whose chains and sets go
}

// Declassify takes that out of the table, in one transaction.
func (k *Kernel) Declassify(gone Gone) error {
	return k.classifyError(k.transaction(func(tx *nftables.Conn) error {
		elements, err := k.leadingTo(gone.Links)
		if err != nil {
			return err
		}
		for _, e := range gone.Elements {
			have, there, err := k.element(e)
			if err != nil {
				return err
			}
			if there && have == e && !slices.Contains(elements, e) {
				elements = append(elements, e)
			}
		}
		for _, e := range elements {
			if err := deleteElements(tx, e.Set, e); err != nil {
				return err
			}
		}
		if len(gone.Chains)+len(gone.Links) == 0 {
			return nil
		}
		return k.deleteChainsOf(tx, gone)
	}))
}

// leadingTo returns the elements of links, and those that lead to their chains for what arrives by them.
func (k *Kernel) leadingTo(links []int) ([]egress.Element, error) {
	if len(links) == 0 {
		return nil, nil
	}
	var leading []egress.Element
	for _, set := range []string{egress.LinkSet, egress.IPv4.Arrived(), egress.IPv6.Arrived()} {
		elements, err := k.elements(set, nil)
		if err != nil {
			return nil, err
		}
		for _, e := range elements {
			if slices.ContainsFunc(links, func(link int) bool { return e.Link == link || e.Chain == egress.MarkChain(link) }) {
				leading = append(leading, e)
			}
		}
	}
	return leading, nil
}

// deleteChainsOf deletes the chains, and the links' chains and sets, that exist.
func (k *Kernel) deleteChainsOf(tx *nftables.Conn, gone Gone) error {
	names, err := k.namesIn(egressTable)
	if err != nil {
		return err
	}
	chains := slices.Clone(gone.Chains)
	var sets []string
	for _, link := range gone.Links {
		chains = append(chains, egress.LinkChains(link)...)
		sets = append(sets, egress.IPv4.ClusterOf(link), egress.IPv6.ClusterOf(link))
	}
	slices.Sort(chains)
	for _, name := range slices.Compact(chains) {
		if slices.Contains(names, name) {
			deleteChains(tx, egress.Chain{Name: name})
		}
	}
	for _, name := range sets {
		if slices.Contains(names, name) {
			tx.DelSet(setNamed(name))
		}
	}
	return nil
}

// DeleteClassification removes the table with all that is in it.
func (k *Kernel) DeleteClassification() error {
	return k.classifyError(k.transaction(func(tx *nftables.Conn) error {
		// Adding what exists is no error, so that what is deleted exists.
		tx.AddTable(egressTable)
		tx.DelTable(egressTable)
		return nil
	}))
}

// MissingClasses says what of these is not in the kernel as it should be.
func (k *Kernel) MissingClasses(c egress.Classes) (missing egress.State, err error) {
	if former, err := k.IsFormer(); err != nil || former {
		return egress.State{Chains: c.Chains(), Elements: append(c.PodElements(), c.SharedElements()...)}, err
	}
	if generation, err := k.generation(); err != nil || k.classified.of(c, generation) {
		return egress.State{}, k.classifyError(err)
	}
	err = k.consistent(func() error {
		missing = egress.State{}
		if missing.Chains, err = k.wrongChains(c.Chains()); err != nil {
			return err
		}
		for _, e := range append(c.PodElements(), c.SharedElements()...) {
			have, there, err := k.element(e)
			if err != nil {
				return err
			}
			if !there || have != e {
				missing.Elements = append(missing.Elements, e)
			}
		}
		return nil
	})
	return missing, k.classifyError(err)
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
