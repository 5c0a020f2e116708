package main

import (
	"fmt"
	"net/netip"
	"os"
	"slices"

	"github.com/egress-ip/egress-ip/pkg/config"
	"github.com/egress-ip/egress-ip/pkg/egress"
	"github.com/egress-ip/egress-ip/pkg/kernel"
	"github.com/egress-ip/egress-ip/pkg/nettest"
	egressnode "github.com/egress-ip/egress-ip/pkg/node"
	"github.com/egress-ip/egress-ip/pkg/record"
)

// attachOurs gives the node's annotated pods their egress by egress-ip.
func attachOurs(s *scope, n *node) { attachBy(s, n, configuration()) }

// attachCounted is egress-ip that counts what each pod sends.
func attachCounted(s *scope, n *node) {
	c := configuration()
	c.Counters = true
	attachBy(s, n, c)
}

// attachBy attaches one pod; the others are recorded as that one is, and a resync
// makes the kernel what the records say. That is what ADDs would, but faster.
func attachBy(s *scope, n *node, c config.Config) {
	var err error
	n.Do(s, func() {
		var store record.Store
		if store, err = record.Open(); err != nil {
			return
		}
		s.Cleanup(func() { _ = os.RemoveAll(store.Dir()) })
		if err = attach(c); err != nil {
			return
		}
		if err = recordAs(store, n.pods); err == nil {
			err = resync(nil)
		}
	})
	if err != nil {
		s.Fatalf("%s: %w", n.label, err)
	}
}

// configuration is an entry of a conflist that allows the egress addresses.
func configuration() config.Config {
	c := config.Config{
		Network: "bench", RulePriority: config.DefaultRulePriority, TableBase: config.DefaultTableBase, MarkMask: config.DefaultMarkMask,
		Probe: config.Probe{Mode: config.ProbeNever},
	}
	var allowed []netip.Prefix
	for _, f := range families {
		allowed = append(allowed, egress.Host(netip.MustParseAddr(f.egress)))
		for _, cidr := range f.cluster {
			c.ClusterCIDRs = append(c.ClusterCIDRs, netip.MustParsePrefix(cidr))
		}
	}
	c.Links = []config.Link{{
		Pattern: nettest.SecondLink, Unchecked: true, // nobody answers on this link
		Allow: []config.Allow{{Namespaces: []string{"*"}, Addresses: allowed}},
	}}
	return c
}

// attach is the ADD of the first pod, a dual-stack one.
func attach(c config.Config) error {
	n, err := egressnode.Open()
	if err != nil {
		return err
	}
	defer n.Close()
	r := config.Request{ContainerID: container(1), IfName: "eth0", PodNamespace: "bench"}
	for _, f := range families {
		r.PodAddresses = append(r.PodAddresses, f.pod(1))
		r.Addresses = append(r.Addresses, netip.MustParseAddr(f.egress))
	}
	return n.Attach(c, r)
}

// recordAs records the pods 2, 3, ... as the first one is.
func recordAs(store record.Store, pods int) error {
	first, ok, err := store.Find(egress.Owner{ContainerID: container(1), IfName: "eth0"})
	if err != nil || !ok {
		return fmt.Errorf("the first pod's record, there %t: %w", ok, err)
	}
	for i := 2; i <= pods; i++ {
		a := first
		a.ContainerID = container(i)
		a.Flows = slices.Clone(first.Flows)
		for k, f := range families {
			a.Flows[k].Pod = f.pod(i)
		}
		if err := store.Put(a); err != nil {
			return err
		}
	}
	return nil
}

// resync makes the kernel what the records say, and makes sure that it is. A watcher's guard, if
// there is one, is told.
func resync(guard *kernel.HeldGuard) error {
	n, err := egressnode.Open()
	if err != nil {
		return err
	}
	defer n.Close()
	n.Hold(guard)
	if _, err := n.Resync(); err != nil {
		return err
	}
	left, err := n.Resync()
	if err == nil && len(left) > 0 {
		err = fmt.Errorf("a second resync had %d things to do, the first is: %s", len(left), left[0])
	}
	return err
}

// container is the ID of a pod's container; they are of one length, as real ones are.
func container(i int) string { return fmt.Sprintf("container-%05d", i) }
