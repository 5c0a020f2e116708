package node

import (
	"fmt"
	"strings"

	"github.com/egress-ip/egress-ip/pkg/config"
	"github.com/egress-ip/egress-ip/pkg/egress"
)

// MissingError is what CHECK reports: recorded, but not in the kernel.
type MissingError struct{ Missing []string }

func (e *MissingError) Error() string {
	return "missing on the node: " + strings.Join(e.Missing, "; ") + "; delete the pod, so that its ADD is made again"
}

// Check is CHECK: what the record says, less what the kernel has.
func (n *Node) Check(r config.Request) error {
	if !r.Annotated() {
		return nil
	}
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

func (n *Node) missing(a egress.Attachment) ([]string, error) {
	var missing []string
	for _, part := range []func(egress.Attachment) ([]string, error){
		n.missingRules, n.missingRoutes, n.missingAddresses, n.missingClasses,
	} {
		m, err := part(a)
		if err != nil {
			return nil, err
		}
		missing = append(missing, m...)
	}
	return missing, nil
}

func (n *Node) missingRules(a egress.Attachment) ([]string, error) {
	var want, have []egress.Rule
	at := egress.PrioritiesAround(a.RulePriority)
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
		want = append(want, rules...)
		ours, _, err := n.kernel.Rules(family, at.Link, at.Behind)
		if err != nil {
			return nil, err
		}
		have = append(have, ours...)
	}
	return describe("rule", want, have), nil
}

func (n *Node) missingRoutes(a egress.Attachment) ([]string, error) {
	var want, have []egress.Route
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
		want = append(want, table.LinkRoutes(main)...)
		want = append(want, table.Throws(table.Thrown)...)
		want = append(want, table.Closing(), f.PodThrow())
		routes, err := n.kernel.OurRoutes(f.Family(), f.Table, 0)
		if err != nil {
			return nil, err
		}
		have = append(have, routes...)
	}
	return describe("route", want, have), nil
}

func (n *Node) missingAddresses(a egress.Attachment) ([]string, error) {
	all, err := n.kernel.Addresses()
	if err != nil {
		return nil, err
	}
	var want, have []egress.Address
	for _, f := range a.Flows {
		want = append(want, f.HostAddress())
	}
	for _, on := range all {
		have = append(have, egress.Address{Link: on.Index, Address: on.Network.Addr()})
	}
	return describe("address", want, have), nil
}

func (n *Node) missingClasses(a egress.Attachment) ([]string, error) {
	return n.kernel.MissingClasses(a.Classes(a.Flows...))
}

func describe[T interface {
	comparable
	fmt.Stringer
}](kind string, want, have []T) []string {
	var s []string
	for _, m := range egress.Missing(want, have) {
		s = append(s, kind+" "+m.String())
	}
	return s
}
