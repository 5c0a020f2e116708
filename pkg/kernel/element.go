package kernel

import (
	"errors"
	"slices"

	"github.com/egress-ip/egress-ip/pkg/egress"
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// setElements makes an interval set's elements these, in the batch under way.
func (k *Kernel) setElements(s *nftables.Set, want []nftables.SetElement) error {
	have, err := k.nft.GetSetElements(s)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	if err == nil && sameElements(want, have) {
		return nil
	}
	k.nft.FlushSet(s)
	return k.nft.SetAddElements(s, want)
}

// mapElement is an element and the map that it is in.
type mapElement struct {
	set *nftables.Set
	nftables.SetElement
}

// elementsOfPod returns the three elements of a pod address.
func elementsOfPod(p egress.Classification) []mapElement {
	f := inet[egress.FamilyOf(p.Pod)]
	to := func(chain *nftables.Chain) *expr.Verdict {
		return &expr.Verdict{Kind: expr.VerdictGoto, Chain: chain.Name}
	}
	return []mapElement{
		{f.verdictMap(f.out), nftables.SetElement{Key: p.Pod.AsSlice(), VerdictData: to(outChain(p.Index)), Comment: p.Owner}},
		{f.verdictMap(f.back), nftables.SetElement{Key: p.Pod.AsSlice(), VerdictData: to(backChain(p.Index)), Comment: p.Owner}},
		{f.snatMap(), nftables.SetElement{
			Key: slices.Concat(p.Pod.AsSlice(), ifNameKey(p.Link)), Val: p.Address.AsSlice(), Comment: p.Owner,
		}},
	}
}

// setElement writes one element, in the batch under way. Adding an element that
// is there keeps its comment, or, with another value, fails: so it goes first.
func (k *Kernel) setElement(e mapElement) error {
	have, there, err := k.element(e)
	if err != nil || there && sameValue(e.SetElement, have) {
		return err
	}
	if there {
		if err := k.nft.SetDeleteElements(e.set, []nftables.SetElement{{Key: e.Key}}); err != nil {
			return err
		}
	}
	return k.nft.SetAddElements(e.set, []nftables.SetElement{e.SetElement})
}

// element reads the element with this one's key, whatever its value.
func (k *Kernel) element(e mapElement) (nftables.SetElement, bool, error) {
	found, err := k.nft.FindSetElements(e.set, []nftables.SetElement{{Key: e.Key}})
	if errors.Is(err, unix.ENOENT) || err == nil && len(found) == 0 {
		return nftables.SetElement{}, false, nil
	}
	if err != nil {
		return nftables.SetElement{}, false, err
	}
	return found[0], true, nil
}
