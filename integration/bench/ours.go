package main

import (
	"fmt"
	"net/netip"
	"os"
	"strings"

	"github.com/egress-ip/egress-ip/pkg/config"
	"github.com/egress-ip/egress-ip/pkg/nettest"
	egressnode "github.com/egress-ip/egress-ip/pkg/node"
	"github.com/egress-ip/egress-ip/pkg/record"
)

// attachedPods is how many pods are attached by the plugin's own code. The others
// of a node are added in bulk, in the shape that those have.
const attachedPods = 3

// attachOurs gives the node's annotated pods their egress by egress-ip.
func attachOurs(s *scope, n *node) {
	attached := min(n.pods, attachedPods)
	var err error
	n.Do(s, func() {
		var store record.Store
		if store, err = record.Open(); err != nil {
			return
		}
		s.Cleanup(func() { _ = os.RemoveAll(store.Dir()); _ = os.Remove(record.Root) })
		for i := 1; i <= attached && err == nil; i++ {
			err = attach(i)
		}
	})
	if err != nil {
		s.Fatalf("%s: %w", n.label, err)
	}
	fill(s, n, attached+1, n.pods)
	sameShape(s, n)
}

// attach is the ADD of a dual-stack pod.
func attach(i int) error {
	n, err := egressnode.Open()
	if err != nil {
		return err
	}
	defer n.Close()
	c := config.Config{
		Network: "bench", RulePriority: config.DefaultRulePriority, TableBase: config.DefaultTableBase, MarkMask: config.DefaultMarkMask,
		Probe: config.Probe{Mode: config.ProbeNever},
	}
	r := config.Request{ContainerID: container(i), IfName: "eth0", PodNamespace: "bench"}
	var allowed []netip.Prefix
	for _, f := range families {
		address := netip.MustParseAddr(f.egress)
		r.PodAddresses = append(r.PodAddresses, f.pod(i))
		r.Addresses = append(r.Addresses, address)
		allowed = append(allowed, netip.PrefixFrom(address, f.bits))
		for _, cidr := range f.cluster {
			c.ClusterCIDRs = append(c.ClusterCIDRs, netip.MustParsePrefix(cidr))
		}
	}
	c.Links = []config.Link{{
		Pattern: nettest.SecondLink, Unchecked: true, // nobody answers on this link
		Allow: []config.Allow{{Namespaces: []string{"*"}, Addresses: allowed}},
	}}
	return n.Attach(c, r)
}

// container is the ID of a pod's container; they are of one length, as real ones are.
func container(i int) string { return fmt.Sprintf("container-%05d", i) }

// fill adds what Attach would for the annotated pods from..to.
func fill(s *scope, n *node, from, to int) {
	if from > to {
		return
	}
	table := n.secondTable(s)
	index := n.Index(s, nettest.SecondLink)
	var nft strings.Builder
	for k, f := range families {
		version := []string{"4", "6"}[k]
		var ip, out, back, snat strings.Builder
		for i := from; i <= to; i++ {
			pod, comment := f.pod(i), fmt.Sprintf("comment %q", container(i))
			fmt.Fprintf(&ip, "rule add priority %d from %s lookup %d protocol kernel\n", config.DefaultRulePriority, pod, table)
			fmt.Fprintf(&ip, "route add throw %s table %d protocol kernel\n", pod, table)
			fmt.Fprintf(&out, "%s %s : goto out_%d,\n", pod, comment, index)
			fmt.Fprintf(&back, "%s %s : goto back_%d,\n", pod, comment, index)
			fmt.Fprintf(&snat, "%s . %q %s : %s,\n", pod, nettest.SecondLink, comment, f.egress)
		}
		n.run(s, ip.String(), "ip", f.flag, "-batch", "-")
		for name, elements := range map[string]*strings.Builder{"out": &out, "back": &back, "snat": &snat} {
			fmt.Fprintf(&nft, "add element inet egress_ip %s%s {\n%s}\n", name, version, elements)
		}
	}
	n.run(s, nft.String(), "nft", "-f", "-")
}
