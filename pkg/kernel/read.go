package kernel

import (
	"slices"

	"github.com/egress-ip/egress-ip/pkg/egress"
)

// Found is what exists on a node.
type Found struct {
	State      egress.State
	Astray     []egress.Route // of others, in links' tables, that can take packets elsewhere
	Classified Classified
}

// ReadAt reads, of what is wanted, what exists, and what has its place: other elements with the
// same keys, other routes in the same tables. Addresses are those that exist.
func (k *Kernel) ReadAt(want egress.State, tables []egress.LinkTable, addresses []egress.Address) (f Found, err error) {
	for _, family := range egress.Families {
		of := slices.DeleteFunc(slices.Clone(want.Rules), func(r egress.Rule) bool { return r.Family != family })
		if len(of) == 0 {
			continue
		}
		present, err := k.PresentRules(family, of)
		if err != nil {
			return f, err
		}
		f.State.Rules = append(f.State.Rules, present...)
	}
	for _, t := range tables {
		ours, others, err := k.TableRoutesBeside(want.Routes, t.Family, t.Table.Table, t.Index)
		if err != nil {
			return f, err
		}
		f.State.Routes = append(f.State.Routes, ours...)
		f.Astray = append(f.Astray, t.Astray(others)...)
	}
	f.State.Addresses = slices.DeleteFunc(slices.Clone(want.Addresses), func(a egress.Address) bool { return !slices.Contains(addresses, a) })
	f.Classified, err = k.ClassificationAt(want)
	f.State.Chains, f.State.Elements = f.Classified.Chains, f.Classified.Elements
	return f, err
}
