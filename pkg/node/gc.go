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
	if err := n.lockToChange(); err != nil {
		return err
	}
	all, unknown, err := n.store.List()
	if err != nil {
		return err
	}
	// Of which network damaged ones are is not known, so their DEL, or a clean-up, removes them.
	if err := n.setAside(unknown.Damaged); err != nil {
		return err
	}
	var failed []error
	for _, e := range unknown.Unread {
		failed = append(failed, e)
	}
	for _, a := range all {
		if a.Network == network && !slices.Contains(valid, a.Owner) {
			failed = append(failed, n.detach(a, a.Flows))
		}
	}
	return errors.Join(failed...)
}
