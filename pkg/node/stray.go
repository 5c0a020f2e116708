package node

import (
	"errors"
	"log/slog"
	"net/netip"
	"slices"

	"github.com/egress-ip/egress-ip/pkg/egress"
	"github.com/egress-ip/egress-ip/pkg/kernel"
)

// removeStray takes away what the kernel has for a pod address and no record asks for:
// else the address' next pod would leave as the one before did. The caller knows that
// nothing is recorded.
func (n *Node) removeStray(by egress.Owner, pod netip.Addr) error {
	owner, exists, err := n.kernel.OwnerOf(egress.Element{Set: egress.FamilyOf(pod).Out(), Pod: pod})
	if err != nil || !exists || owner == by.Comment() {
		return err
	}
	if err := n.lockToChange(); err != nil {
		return err
	}
	if claims, err := n.claims(pod, by); err != nil || len(claims) > 0 {
		return err // an ADD that was under way
	}
	slog.Info("a pod address has egress that is recorded nowhere; it is removed", "address", pod, "container", owner)
	return n.removeStrays(func(e egress.Element) bool { return e.Pod == pod })
}

// removeStrays deletes the elements that match, and what else their pod addresses have:
// source rules, throws and connections.
func (n *Node) removeStrays(match func(egress.Element) bool) error {
	elements, err := n.kernel.PodElements(match)
	if err != nil || len(elements) == 0 {
		return err
	}
	if err := n.kernel.Declassify(kernel.Gone{Elements: elements}); err != nil {
		return err
	}
	var pods []netip.Addr
	for _, e := range elements {
		if !slices.Contains(pods, e.Pod) {
			pods = append(pods, e.Pod)
		}
	}
	var errs []error
	for _, family := range egress.Families {
		of := slices.DeleteFunc(slices.Clone(pods), func(p netip.Addr) bool { return egress.FamilyOf(p) != family })
		if len(of) == 0 {
			continue
		}
		rules, _, err := n.kernel.Rules(family)
		errs = append(errs, err)
		for _, r := range rules {
			if !slices.Contains(of, r.From) || r.Table < 256 {
				continue
			}
			errs = append(errs,
				n.kernel.DeleteSourceRule(r),
				n.kernel.DeleteRoute(egress.Flow{Pod: r.From, Table: r.Table}.PodThrow()))
		}
	}
	for _, pod := range pods {
		errs = append(errs, n.kernel.DeleteConntrack(pod))
	}
	return errors.Join(errs...)
}
