package kernel

import (
	"errors"
	"fmt"
	"slices"

	"github.com/egress-ip/egress-ip/pkg/egress"
	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

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

func (k *Kernel) rewrite(tx *nftables.Conn, c Change) error {
	if c.Replace || c.Remove {
		// Adding what exists is no error, so that what is deleted exists.
		tx.AddTable(egressTable)
		tx.DelTable(egressTable)
	}
	if c.Remove {
		return nil
	}
	var names []string
	if len(c.Missing.Chains)+len(c.Surplus.Chains) > 0 && !c.Replace {
		var err error
		if names, err = k.namesIn(egressTable); err != nil {
			return err
		}
	}
	exist := func(chains []egress.Chain) []egress.Chain {
		return slices.DeleteFunc(slices.Clone(chains), func(chain egress.Chain) bool { return !slices.Contains(names, chain.Name) })
	}
	if len(c.Missing.Chains) > 0 {
		// A hook cannot be changed, so what exists of a hooked chain goes first.
		deleteChains(tx, exist(slices.DeleteFunc(slices.Clone(c.Missing.Chains), func(chain egress.Chain) bool { return !chain.Hooked() }))...)
		if err := putUp(tx, c.Missing.Chains); err != nil {
			return err
		}
	}
	unneeded := unneededSets(names, c)
	if err := rewriteElements(tx, c, unneeded); err != nil {
		return err
	}
	deleteChains(tx, exist(c.Surplus.Chains)...)
	for _, name := range unneeded {
		tx.DelSet(setNamed(name))
	}
	return nil
}

// rewriteElements deletes before it adds: adding an element that exists keeps its comment, or,
// with another value, fails. A cluster set is written as a whole.
func rewriteElements(tx *nftables.Conn, c Change, unneeded []string) error {
	var sets []string
	add, del := map[string][]egress.Element{}, map[string][]egress.Element{}
	for _, e := range slices.Concat(c.Missing.Elements, c.Surplus.Elements) {
		if !slices.Contains(sets, e.Set) && !slices.Contains(unneeded, e.Set) {
			sets = append(sets, e.Set)
		}
	}
	for _, e := range c.Missing.Elements {
		add[e.Set] = append(add[e.Set], e)
	}
	for _, e := range c.Surplus.Elements {
		del[e.Set] = append(del[e.Set], e)
	}
	for _, name := range sets {
		if isCluster(name) {
			tx.FlushSet(setNamed(name))
			of := slices.DeleteFunc(slices.Clone(c.Want.Elements), func(e egress.Element) bool { return e.Set != name })
			if err := addNetworks(tx, name, of...); err != nil {
				return err
			}
			continue
		}
		if err := errors.Join(deleteElements(tx, name, del[name]...), addElements(tx, name, add[name]...)); err != nil {
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
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool {
		index, _ := egress.LinkOf(name)
		return !isCluster(name) || !links[index] || slices.Contains(wanted, name)
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

// deleteChains deletes chains, which may go to each other.
func deleteChains(tx *nftables.Conn, chains ...egress.Chain) {
	for _, c := range chains {
		tx.FlushChain(chainOf(c))
	}
	for _, c := range chains {
		tx.DelChain(chainOf(c))
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
