package node

import (
	"slices"

	"github.com/egress-ip/egress-ip/pkg/config"
	"github.com/egress-ip/egress-ip/pkg/egress"
)

// ConflictError says that somebody else owns the ground on which egress-ip builds.
type ConflictError struct{ conflict string }

func (e *ConflictError) Error() string { return e.conflict }

// checkAlone refuses to mix with another system. Rules and foreign content of our
// table are looked for before the node's first annotated pod, when there is
// nothing of ours yet.
func (n *Node) checkAlone(c config.Config, flows []egress.Flow) error {
	conflict, err := n.kernel.OtherEgress()
	if err != nil {
		return err
	}
	if conflict != "" {
		return &ConflictError{conflict}
	}
	for _, f := range flows {
		if err := n.checkTable(c, f); err != nil {
			return err
		}
	}
	records, err := n.records()
	if err != nil || !records.Empty() {
		return err
	}
	var families []egress.Family
	for _, f := range flows {
		if !slices.Contains(families, f.Family()) {
			families = append(families, f.Family())
		}
	}
	conflict, err = n.kernel.Foreign(families, egress.PrioritiesAround(c.RulePriority))
	if err != nil {
		return err
	}
	if conflict != "" {
		return &ConflictError{conflict}
	}
	return nil
}
