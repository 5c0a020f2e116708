package node

import (
	"fmt"
	"slices"
	"strings"

	"github.com/egress-ip/egress-ip/pkg/config"
	"github.com/egress-ip/egress-ip/pkg/egress"
)

// MissingError is what CHECK reports: recorded, but not in the kernel.
type MissingError struct{ Missing []string }

func (e *MissingError) Error() string {
	return "missing on the node: " + strings.Join(e.Missing, "; ") + "; delete the pod, so that its ADD is made again"
}

// Check is CHECK of an annotated pod: what the record says, less what the kernel has.
func (n *Node) Check(r config.Request) error {
	if err := n.lock(); err != nil {
		return err
	}
	a, err := n.recorded(egress.Owner{ContainerID: r.ContainerID, IfName: r.IfName})
	if err != nil {
		return err
	}
	v, err := n.lookFor(a)
	if err != nil {
		return err
	}
	if missing := n.missing(v); len(missing) > 0 {
		return &MissingError{missing}
	}
	obstacles, err := n.obstacles(a, v)
	if err != nil {
		return err
	}
	if len(obstacles) > 0 {
		return &ConflictError{strings.Join(obstacles.lines(), "; ")}
	}
	return nil
}

// recorded returns the attachment of a request that must have been attached.
func (n *Node) recorded(o egress.Owner) (egress.Attachment, error) {
	a, ok, err := n.store.Find(o)
	if err == nil && !ok {
		err = fmt.Errorf("container %s, interface %s: egress-ip has no record of this pod's egress; delete the pod, so that its ADD is made again", o.ContainerID, o.IfName)
	}
	return a, err
}

// missing returns what is wanted and does not exist, and what of somebody else is in the
// way in links' tables, as text.
func (n *Node) missing(v view) []string {
	v.missing.Addresses = slices.Concat(v.missing.Addresses, v.absent)
	return append(v.missing.Lines(n.linkName), n.inTheWay(v.astray)...)
}

// inTheWay names somebody else's routes.
func (n *Node) inTheWay(astray []egress.Route) []string {
	var lines []string
	for _, r := range astray {
		lines = append(lines, fmt.Sprintf("somebody else's %s route `%s` in table %d is in the way; remove it", r.Family(), r.Text(n.linkName(r.Link)), r.Table))
	}
	return lines
}

func addressesOf(all []egress.LinkAddress) []egress.Address {
	addresses := make([]egress.Address, 0, len(all))
	for _, on := range all {
		addresses = append(addresses, egress.Address{Link: on.Index, Address: on.Network.Addr()})
	}
	return addresses
}
