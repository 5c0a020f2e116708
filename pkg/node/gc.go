package node

import (
	"errors"
	"slices"

	"github.com/egress-ip/egress-ip/pkg/egress"
)

// Collect is GC: it detaches what the network has and valid does not list. It
// goes on after an error, and returns all.
func Collect(network string, valid []egress.Owner) error {
	n, err := Open()
	if err != nil {
		return err
	}
	defer n.Close()
	if err := n.lock(); err != nil {
		return err
	}
	all, damaged, err := n.store.List()
	if err != nil {
		return err
	}
	// Of which network they are cannot be read, so their DEL, or a clean-up, removes them.
	if err := n.setAside(damaged); err != nil {
		return err
	}
	var failed []error
	for _, a := range all {
		if a.Network == network && !slices.Contains(valid, a.Owner) {
			failed = append(failed, n.detach(a, a.Flows))
		}
	}
	return errors.Join(failed...)
}
