package kernel

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/egress-ip/egress-ip/pkg/egress"
	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

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
