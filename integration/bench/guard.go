package main

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/egress-ip/egress-ip/pkg/kernel"
	"github.com/egress-ip/egress-ip/pkg/nettest"
)

// guardSystems show what the guard, the check of sources and random source ports cost:
// egress-ip as it is, and as it was before it had them (commit 04f183a).
var guardSystems = []system{
	{label: unguarded, attach: attachBefore, arrive: byEgress, base: true},
	{label: ours, attach: attachOurs, arrive: byEgress},
	{label: "egress-ip, sourceCheck: false", attach: attachUnchecked, arrive: byEgress},
	{label: "egress-ip and its watcher", attach: attachWatched, arrive: byEgress},
	{label: bare, attach: attachNothing, arrive: byPrimary},
}

const unguarded = "egress-ip before the guard"

// attachUnchecked is egress-ip that takes every packet with a pod's source for the pod's.
func attachUnchecked(s *scope, n *node) {
	c := configuration()
	c.Unchecked = true
	attachBy(s, n, c)
}

// attachWatched is egress-ip beside a watcher, which holds a second guard.
func attachWatched(s *scope, n *node) {
	attachOurs(s, n)
	guard := new(kernel.HeldGuard)
	s.Cleanup(guard.Close)
	var err error
	n.Do(s, func() { err = resync(guard) })
	if err != nil {
		s.Fatalf("%s: %w", n.label, err)
	}
}

// attachBefore makes of egress-ip what commit 04f183a installed.
func attachBefore(s *scope, n *node) {
	attachOurs(s, n)
	n.run(s, tableBefore(n.pods, n.Index(s, nettest.SecondLink)), "nft", "-f", "-")
	for _, f := range families {
		for line := range strings.Lines(n.run(s, "", "ip", f.flag, "rule")) {
			if words := strings.Fields(line); words[0] == "5999:" && strings.Contains(line, " to ") {
				n.run(s, "", "ip", append([]string{f.flag, "rule", "del", "priority", "5999"}, words[1:]...)...)
			}
		}
	}
	for conf, value := range map[string]string{"all": "1", nettest.PrimaryLink: "0", nettest.SecondLink: "0"} {
		n.Sysctl(s, "net.ipv4.conf."+conf+".src_valid_mark", value)
	}
}

// tableBefore is the table of that commit, for nft.
func tableBefore(pods, link int) string {
	var b strings.Builder
	elements := func(of func(pod netip.Addr) string, all []netip.Addr) {
		b.WriteString("\t\telements = { ")
		for _, pod := range all {
			b.WriteString(of(pod) + ", ")
		}
		b.WriteString("}\n\t}\n")
	}
	b.WriteString("delete table inet egress_ip\ntable inet egress_ip {\n\tmap unmarked { type mark : verdict\n\t\telements = { 0x00000000 : goto others }\n\t}\n")
	for i, f := range families {
		digit, addr := []string{"4", "6"}[i], []string{"ipv4_addr", "ipv6_addr"}[i]
		all := f.annotated(pods)
		fmt.Fprintf(&b, "\tset cluster%s { type %s; flags interval\n\t\telements = { %s }\n\t}\n", digit, addr, strings.Join(f.cluster, ", "))
		fmt.Fprintf(&b, "\tmap snat%s { type %s . ifname : %s\n", digit, addr, addr)
		elements(func(pod netip.Addr) string { return fmt.Sprintf("%s . %q : %s", pod, nettest.SecondLink, f.egress) }, all)
		fmt.Fprintf(&b, "\tmap out%s { type %s : verdict\n", digit, addr)
		elements(func(pod netip.Addr) string { return fmt.Sprintf("%s : goto out_%d", pod, link) }, all)
		fmt.Fprintf(&b, "\tmap back%s { type %s : verdict\n", digit, addr)
		elements(func(pod netip.Addr) string { return fmt.Sprintf("%s : goto back_%d", pod, link) }, all)
	}
	fmt.Fprintf(&b, `
	chain prerouting {
		type filter hook prerouting priority dstnat + 10; policy accept;
		ip saddr vmap @out4
		ip daddr vmap @back4
		ip6 saddr vmap @out6
		ip6 daddr vmap @back6
		meta mark & 0xffff3fff vmap @unmarked
	}
	chain output {
		type route hook output priority mangle; policy accept;
		ct state related ct direction original ct original ip saddr vmap @out4
		ct state related ct direction original ct original ip6 saddr vmap @out6
	}
	chain out_%[1]d {
		ct direction reply goto others
		ip daddr @cluster4 goto others
		ip6 daddr @cluster6 goto others
		ct state invalid fib daddr type unicast drop
		meta mark set meta mark & 0xf1ffffff | 0x01000000
	}
	chain back_%[1]d {
		ct direction original goto others
		meta mark set meta mark & 0xf1ffffff | 0x01000000
	}
	chain others {
		meta mark set meta mark | 0x0f000000
	}
	chain postrouting {
		type nat hook postrouting priority srcnat - 10; policy accept;
		ip daddr @cluster4 return
		snat ip to ip saddr . oifname map @snat4
		ip6 daddr @cluster6 return
		snat ip6 to ip6 saddr . oifname map @snat6
	}
}
`, link)
	return b.String()
}
