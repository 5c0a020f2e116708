package kernel

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/egress-ip/egress-ip/pkg/egress"
	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// Counter counts packets and their bytes, IP headers included.
type Counter struct{ Packets, Bytes uint64 }

// Classification reads the table inet egress_ip: of the wanted chains those that
// stand as they should, every other chain of ours by its name alone, every
// element, and what each pod address has sent to its link.
func (k *Kernel) Classification(want []egress.Chain) ([]egress.Chain, []egress.Element, map[netip.Addr]Counter, error) {
	if stands, err := k.hasTable(egressTable); err != nil || !stands {
		return nil, nil, nil, classifyError(err)
	}
	chains, err := k.chains(want)
	if err != nil {
		return nil, nil, nil, classifyError(err)
	}
	var sets [][]egress.Element
	for _, set := range setNames() {
		of, err := k.elements(set)
		if err != nil {
			return nil, nil, nil, classifyError(err)
		}
		sets = append(sets, of)
	}
	sent, err := k.sent(want)
	return chains, slices.Concat(sets...), sent, classifyError(err)
}

// sent reads the counters of pods, if any is counted.
func (k *Kernel) sent(want []egress.Chain) (map[netip.Addr]Counter, error) {
	if !slices.ContainsFunc(want, isCounted) {
		return nil, nil
	}
	counters := map[netip.Addr]Counter{}
	for _, f := range egress.Families {
		found, err := k.nft.GetSetElements(setNamed(f.Sent()))
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return nil, err
		}
		for _, s := range found {
			if pod, ok := netip.AddrFromSlice(s.Key); ok && s.Counter != nil {
				counters[pod] = Counter{s.Counter.Packets, s.Counter.Bytes}
			}
		}
	}
	return counters, nil
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

// podsAtOnce is how many pods' elements are written in one transaction: far below
// what a socket's send buffer takes (some 500 bytes a pod of 200 KB).
const podsAtOnce = 100

// Reclassify takes out of the table what is surplus and puts in what is missing.
// Pods' elements come before the chains through which packets reach them: a pod
// that these do not know is taken for one of no egress.
func (k *Kernel) Reclassify(missing, surplus egress.State, cluster []egress.Element) error {
	var hooked, unhooked []egress.Chain
	for _, c := range missing.Chains {
		if c.Hooked() {
			hooked = append(hooked, c)
		} else {
			unhooked = append(unhooked, c)
		}
	}
	if err := k.putUp(unhooked); err != nil {
		return classifyError(err)
	}
	if err := k.setCluster(cluster); err != nil {
		return classifyError(err)
	}
	if err := k.nft.Flush(); err != nil {
		return classifyError(err)
	}
	if err := k.replaceElements(missing.Elements, surplus.Elements); err != nil {
		return classifyError(err)
	}
	// A hook cannot be changed, so what is there of a hooked chain goes first.
	for _, c := range hooked {
		there, err := k.hasChain(chainOf(c))
		if err != nil {
			return classifyError(err)
		}
		if there {
			k.deleteChains(c)
		}
	}
	if err := k.putUp(hooked); err != nil {
		return classifyError(err)
	}
	k.deleteChains(surplus.Chains...)
	return classifyError(k.nft.Flush())
}

// deleteChains deletes chains, which may go to each other, in the batch under way.
func (k *Kernel) deleteChains(chains ...egress.Chain) {
	for _, c := range chains {
		k.nft.FlushChain(chainOf(c))
	}
	for _, c := range chains {
		k.nft.DelChain(chainOf(c))
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
		if !ofCluster(e) {
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
		for _, set := range setNames() {
			if err := errors.Join(k.deleteElements(set, del[set]...), k.addElements(set, add[set]...)); err != nil {
				return err
			}
		}
		if err := k.nft.Flush(); err != nil {
			return err
		}
	}
	return nil
}

func ofCluster(e egress.Element) bool {
	return e.Set == egress.IPv4.Cluster() || e.Set == egress.IPv6.Cluster()
}
