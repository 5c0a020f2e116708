package kernel

import (
	"fmt"
	"slices"

	"github.com/egress-ip/egress-ip/pkg/egress"
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

// putUp adds the table, what is not there of its sets, and these chains, in the
// batch under way.
func (k *Kernel) putUp(chains []egress.Chain) error {
	k.nft.AddTable(egressTable)
	counted := slices.ContainsFunc(chains, isCounted)
	for _, name := range setNames() {
		if !counted && (name == egress.IPv4.Sent() || name == egress.IPv6.Sent()) {
			continue
		}
		if err := k.nft.AddSet(setNamed(name), nil); err != nil {
			return err
		}
	}
	for _, c := range chains {
		k.nft.AddChain(chainOf(c))
	}
	for _, c := range chains {
		k.setRules(chainOf(c), rulesOf(c))
	}
	return nil
}

// Classify puts up what is not there or not right of the table, makes the cluster
// sets these, and the elements of these pods these, in one transaction. Elements
// of other pods stay.
func (k *Kernel) Classify(c egress.Classes) error {
	wrong, err := k.wrongChains(c.Chains())
	if err != nil {
		return classifyError(err)
	}
	if len(wrong) > 0 {
		if err := k.putUp(wrong); err != nil {
			return classifyError(err)
		}
	}
	if err := k.setCluster(c.ClusterElements()); err != nil {
		return classifyError(err)
	}
	for _, e := range append(c.PodElements(), egress.UnmarkedElement()) {
		if err := k.setElement(e); err != nil {
			return classifyError(err)
		}
	}
	return classifyError(k.nft.Flush())
}

// Declassify removes the elements that are exactly these, and the chains with
// these names, and, if said, the sets of counters, in one transaction. An element that belongs to another container
// by now stays.
func (k *Kernel) Declassify(c egress.Classes, chains []string, counters bool) error {
	for _, e := range c.PodElements() {
		have, there, err := k.element(e)
		if err != nil {
			return classifyError(err)
		}
		if !there || have != e {
			continue
		}
		if err := k.deleteElements(e.Set, e); err != nil {
			return classifyError(err)
		}
	}
	for _, name := range chains {
		chain := chainOf(egress.Chain{Name: name})
		there, err := k.hasChain(chain)
		if err != nil {
			return classifyError(err)
		}
		if there {
			k.nft.FlushChain(chain)
			k.nft.DelChain(chain)
		}
	}
	for _, f := range egress.Families {
		if !counters {
			break
		}
		there, err := k.hasSet(f.Sent())
		if err != nil {
			return classifyError(err)
		}
		if there {
			k.nft.DelSet(setNamed(f.Sent()))
		}
	}
	return classifyError(k.nft.Flush())
}

// DeleteClassification removes the table with all that is in it.
func (k *Kernel) DeleteClassification() error {
	k.nft.AddTable(egressTable)
	k.nft.DelTable(egressTable)
	return classifyError(k.nft.Flush())
}

// MissingClasses says what of these is not in the kernel as it should be.
func (k *Kernel) MissingClasses(c egress.Classes) (egress.State, error) {
	var missing egress.State
	var err error
	if missing.Chains, err = k.wrongChains(c.Chains()); err != nil {
		return egress.State{}, classifyError(err)
	}
	for _, e := range append(c.PodElements(), egress.UnmarkedElement()) {
		have, there, err := k.element(e)
		if err != nil {
			return egress.State{}, classifyError(err)
		}
		if !there || have != e {
			missing.Elements = append(missing.Elements, e)
		}
	}
	return missing, nil
}

func classifyError(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("table inet %s: %w", egressTable.Name, noAnswer(err))
}
