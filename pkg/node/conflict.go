package node

import (
	"fmt"
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

// checkTable refuses a flow's table, at its first use, that holds routes of somebody else.
// What a call that was killed has left has its closing route.
func (n *Node) checkTable(c config.Config, f egress.Flow) error {
	if _, _, used, err := n.sharer(func(other egress.Flow) bool {
		return other.Table == f.Table && other.Family() == f.Family()
	}); err != nil || used {
		return err
	}
	left, others, err := n.kernel.TableRoutes(f.Family(), f.Table, f.Index, nil)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(left, egress.Route.IsClosing) {
		others = append(others, left...)
	}
	if len(others) == 0 {
		return nil
	}
	return &ConflictError{fmt.Sprintf(
		"somebody else uses table %d, which is tableBase %d + %d, the ifindex of %s: it has the %s route `%s`; remove the routes in it (`ip route show table %d`), or set tableBase",
		f.Table, c.TableBase, f.Index, f.Link, f.Family(), others[0].Text(n.linkName(others[0].Link)), f.Table)}
}
