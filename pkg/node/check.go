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
	missing, err := n.missing(a)
	if err != nil {
		return err
	}
	if len(missing) > 0 {
		return &MissingError{missing}
	}
	obstacles, err := n.obstacles(a)
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

// missing returns what an attachment needs and does not have, and what of somebody else is
// in the way in its links' tables, as text. It looks at nothing else: there may be
// thousands of attachments.
func (n *Node) missing(a egress.Attachment) ([]string, error) {
	var want, have egress.State
	for _, part := range []func(egress.Attachment, *egress.State, *egress.State) error{n.lookAtRules, n.lookAtAddresses} {
		if err := part(a, &want, &have); err != nil {
			return nil, err
		}
	}
	astray, err := n.lookAtRoutes(a, &want, &have)
	if err != nil {
		return nil, err
	}
	missing, _ := want.Less(have)
	classes := a.Classes(a.Flows...)
	if cluster, ok, err := n.store.Cluster(); err != nil {
		return nil, err
	} else if ok {
		classes.Cluster = cluster // the last ADD's count
	}
	unclassified, err := n.kernel.MissingClasses(classes)
	if err != nil {
		return nil, err
	}
	missing.Chains, missing.Elements = unclassified.Chains, unclassified.Elements
	return append(missing.Lines(n.linkName), n.inTheWay(astray)...), nil
}

// inTheWay names somebody else's routes.
func (n *Node) inTheWay(astray []egress.Route) []string {
	var lines []string
	for _, r := range astray {
		lines = append(lines, fmt.Sprintf("somebody else's %s route `%s` in table %d is in the way; remove it", r.Family(), r.Text(n.linkName(r.Link)), r.Table))
	}
	return lines
}

func (n *Node) lookAtRules(a egress.Attachment, want, have *egress.State) error {
	for _, family := range egress.Families {
		var rules []egress.Rule
		for _, f := range a.Flows {
			if f.Family() == family {
				rules = append(rules, a.Rules(f)...)
			}
		}
		if len(rules) == 0 {
			continue
		}
		want.Rules = append(want.Rules, rules...)
		present, err := n.kernel.PresentRules(family, rules)
		if err != nil {
			return err
		}
		have.Rules = append(have.Rules, present...)
	}
	return nil
}

// lookAtRoutes also returns somebody else's routes that can take packets elsewhere.
func (n *Node) lookAtRoutes(a egress.Attachment, want, have *egress.State) (astray []egress.Route, err error) {
	for _, f := range a.Flows {
		// As last written: a later ADD may have come with another configuration.
		table, ok, err := n.store.Table(f.Table, f.Family())
		if err != nil {
			return nil, err
		}
		if !ok {
			table.TableSpec = a.TableSpec(f)
		}
		main, err := n.linkRoutes(f.Index, f.Family())
		if err != nil {
			return nil, err
		}
		want.Routes = append(want.Routes, table.Routes(main)...)
		want.Routes = append(want.Routes, f.PodThrow())
		ours, others, err := n.kernel.TableRoutesBeside(want.Routes, f.Family(), f.Table, f.Index)
		if err != nil {
			return nil, err
		}
		have.Routes = append(have.Routes, ours...)
		astray = append(astray, table.Astray(others)...)
	}
	return astray, nil
}

func (n *Node) lookAtAddresses(a egress.Attachment, want, have *egress.State) error {
	all, err := n.kernel.Addresses()
	if err != nil {
		return err
	}
	for _, f := range a.Flows {
		want.Addresses = append(want.Addresses, f.HostAddress())
	}
	all = slices.DeleteFunc(all, func(a egress.LinkAddress) bool { return a.Unconfirmed })
	have.Addresses = addressesOf(all)
	return nil
}

func addressesOf(all []egress.LinkAddress) []egress.Address {
	addresses := make([]egress.Address, 0, len(all))
	for _, on := range all {
		addresses = append(addresses, egress.Address{Link: on.Index, Address: on.Network.Addr()})
	}
	return addresses
}
