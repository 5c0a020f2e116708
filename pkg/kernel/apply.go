package kernel

import (
	"errors"
	"net/netip"
	"slices"

	"github.com/egress-ip/egress-ip/pkg/egress"
)

// Change is the difference between what should exist and what exists, within the scope of a
// call.
type Change struct {
	Missing, Surplus egress.State
	Want, Have       egress.State                     // of the tables of which anything is missing or surplus, all
	Tables           []egress.Table                   // that are to exist
	Marked           []string                         // links whose src_valid_mark is to be set
	UnmarkAll        bool                             // and that of all links reset, which an earlier version has set
	Ended            []netip.Addr                     // pods whose egress ends
	Fresh            []netip.Addr                     // pods whose egress begins
	Suspects         []egress.Flow                    // flows some of whose connections may have another translation,
	Inside           map[egress.Family][]netip.Prefix // for destinations that are none of these
	Replace          bool                             // the table inet egress_ip was made by another version
	Remove           bool                             // nothing needs it any more
}

// Apply writes a change. Additions come in the order in which each step makes the next one
// safe, deletions in the reverse, and nf_tables, which has both in one transaction, between.
// The caller has recorded what is added, and forgets what is deleted when this has returned
// without an error.
//
//  1. connections of pods whose egress ends: what servers still send no longer gets to the pod,
//     whose kernel would answer by main, with the egress address;
//  2. routes, the closing one of each table first: a table is never open (invariant 1: a packet
//     that is looked up in it leaves by the link, or is refused);
//  3. egress addresses, of which the link's neighbours are told;
//  4. src_valid_mark, before a mark is looked up the way back;
//  5. rules: what catches a pod's packets before what lets packets pass;
//  6. the table inet egress_ip: from here on what a new pod sends is classified, translated and
//     guarded (invariants 1 and 6), and what an ended one sends is not;
//  7. rules that go, before the tables into which they look;
//  8. connections, once nothing makes wrong ones any more: those of ended pods that have been
//     opened since 1, those of whoever had a new pod's address, those that have another
//     translation than they should;
//  9. addresses that go;
//  10. routes that go, the closing one with its table.
//
// A call that is killed between two steps is taken up by a later one, which finds the same
// change less what has been done; each step can be taken twice. Until then a new pod's packets are
// refused, or leave as a plain pod's while its ADD has not returned, so that it runs nothing; an
// ended one's are a plain pod's.
//
// After an error Apply returns, or goes on with what else is to be done and returns all. The
// error may be [ErrChanged].
func (k *Kernel) Apply(c Change, goOn bool) error {
	var errs []error
	for _, step := range []func() error{
		func() error { return each(c.Ended, k.deleteConntrack) },
		func() error { return k.changeRoutes(c) },
		func() error { return each(c.Missing.Addresses, k.addAddress) },
		func() error { return setMarks(c) },
		func() error { return each(inOrder(c.Missing.Rules), k.addRule) },
		func() error { return k.rewriteTable(c) },
		func() error { return each(backward(inOrder(c.Surplus.Rules)), k.deleteRule) },
		func() error { return k.dropConnections(c) },
		func() error { return each(c.Surplus.Addresses, k.deleteAddress) },
		func() error { return k.deleteRoutes(c) },
	} {
		err := step()
		if err != nil && !goOn {
			return err
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func each[T any](all []T, do func(T) error) error {
	var errs []error
	for _, one := range all {
		errs = append(errs, do(one))
	}
	return errors.Join(errs...)
}

func only[T any](all []T, which func(T) bool) []T {
	return slices.DeleteFunc(slices.Clone(all), func(one T) bool { return !which(one) })
}

func backward[T any](all []T) []T {
	slices.Reverse(all)
	return all
}

// inOrder returns rules in the order in which to add them.
func inOrder(rules []egress.Rule) []egress.Rule {
	rules = slices.Clone(rules)
	slices.SortStableFunc(rules, func(a, b egress.Rule) int { return min(int(a.Goto), 1) - min(int(b.Goto), 1) })
	return rules
}

// changeRoutes makes each table that is to exist what it is to be.
func (k *Kernel) changeRoutes(c Change) error {
	return each(c.Tables, func(t egress.Table) error {
		return k.setRoutes(only(c.Want.Routes, t.Has), only(c.Have.Routes, t.Has))
	})
}

// deleteRoutes leaves tables alone that are to exist: changeRoutes has dealt with them.
func (k *Kernel) deleteRoutes(c Change) error {
	return k.setRoutes(nil, only(c.Surplus.Routes, func(r egress.Route) bool {
		return !slices.ContainsFunc(c.Tables, func(t egress.Table) bool { return t.Has(r) })
	}))
}

func setMarks(c Change) error {
	err := each(c.Marked, func(link string) error { return SetSrcValidMark(link, true) })
	if err == nil && c.UnmarkAll {
		err = SetSrcValidMark(AllLinks, false)
	}
	return err
}

func (k *Kernel) dropConnections(c Change) error {
	err := each(slices.Concat(c.Ended, c.Fresh), k.deleteConntrack)
	if len(c.Suspects) > 0 {
		err = errors.Join(err, k.deleteStaleSNAT(c.Suspects, c.Inside))
	}
	return err
}

// Found is what exists on a node.
type Found struct {
	State      egress.State
	Astray     []egress.Route // of others, in links' tables, that can take packets elsewhere
	Classified Classified
}

// ReadAt reads, of what is wanted, what exists, and what has its place: other elements with the
// same keys, other routes in the same tables. Addresses are those that exist.
func (k *Kernel) ReadAt(want egress.State, tables []egress.Table, addresses []egress.Address) (f Found, err error) {
	for _, family := range egress.Families {
		of := only(want.Rules, func(r egress.Rule) bool { return r.Family == family })
		if len(of) == 0 {
			continue
		}
		present, err := k.presentRules(family, of)
		if err != nil {
			return f, err
		}
		f.State.Rules = append(f.State.Rules, present...)
	}
	pods := map[netip.Addr]bool{}
	for _, r := range want.Routes {
		if r.IsPodThrow() {
			pods[r.Dst.Addr()] = true
		}
	}
	for _, t := range tables {
		ours, others, err := k.tableRoutes(t.Family, routeQuery{table: t.Table, pods: pods}, t.Index, nil)
		if err != nil {
			return f, err
		}
		f.State.Routes = append(f.State.Routes, ours...)
		f.Astray = append(f.Astray, t.Astray(others)...)
	}
	f.State.Addresses = only(want.Addresses, func(a egress.Address) bool { return slices.Contains(addresses, a) })
	f.Classified, err = k.ClassificationAt(want)
	f.State.Chains, f.State.Elements = f.Classified.Chains, f.Classified.Elements
	return f, err
}
