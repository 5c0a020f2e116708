package main

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/egress-ip/egress-ip/pkg/nettest"
)

// countersSystems are ways to count each annotated pod's packets. The first four
// count nothing: three are the base, and the fourth shows how well the measurement
// tells things apart.
var countersSystems = []system{
	{label: "as it ships", attach: attachWithMark, arrive: byEgress, base: true},
	{label: "as it ships, second node", attach: attachWithMark, arrive: byEgress, base: true},
	{label: "as it ships, third node", attach: attachWithMark, arrive: byEgress, base: true},
	{label: "as it ships, reloaded by nft", attach: edited(unedited), arrive: byEgress},
	{label: "set sent4, a rule in out_N", attach: edited(countInSet), arrive: byEgress},
	{label: "counters in the map out4", attach: edited(countInMap), arrive: byEgress},
	{label: "chain in postrouting", attach: edited(countBehind), arrive: byEgress},
}

// edited replaces the table of egress-ip by an edited copy.
func edited(edit func(s *scope, n *node, table string) string) func(*scope, *node) {
	return func(s *scope, n *node) {
		attachWithMark(s, n)
		table := n.run(s, "", "nft", "list", "table", "inet", "egress_ip")
		n.run(s, "delete table inet egress_ip\n"+edit(s, n, table), "nft", "-f", "-")
	}
}

func unedited(_ *scope, _ *node, table string) string { return table }

// countInSet looks each pod's packets up once more, where they get the link's mark.
func countInSet(s *scope, n *node, table string) string {
	const lookUp = `
		meta nfproto ipv4 ip saddr @sent4
		meta nfproto ipv6 ip6 saddr @sent6`
	out := regexp.MustCompile(`(?s)(chain out_\d+ {[^}]*)(\n[^\n]*meta mark set [^\n]*\n\t})`)
	return inTable(replace(s, table, out, 1, "${1}"+lookUp+"$2"), sentSets(n, ""))
}

// countInMap has the elements of the classification count.
func countInMap(s *scope, _ *node, table string) string {
	m := regexp.MustCompile(`map out[46] {\n\t\ttype \w+ : verdict\n`)
	return replace(s, table, m, 2, "$0\t\tcounter\n")
}

// replace edits text in as many places as it has to have.
func replace(s *scope, text string, at *regexp.Regexp, places int, by string) string {
	if found := len(at.FindAllString(text, -1)); found != places {
		s.Fatalf("the table of egress-ip has %q in %d places instead of %d:\n%s", at, found, places, text)
	}
	return at.ReplaceAllString(text, by)
}

// countBehind counts what leaves, with its size there, by pod and link.
func countBehind(_ *scope, n *node, table string) string {
	return inTable(table, sentSets(n, nettest.SecondLink)+`
	chain sent {
		type filter hook postrouting priority mangle;
		meta mark & 0x0f000000 == 0x0f000000 return
		meta mark & 0x0f000000 == 0 return
		meta nfproto ipv4 ip saddr . oifname @sent4
		meta nfproto ipv6 ip6 saddr . oifname @sent6
	}`)
}

// sentSets are sets with an element with a counter for each annotated pod, and
// for a link if one is named.
func sentSets(n *node, link string) string {
	var b strings.Builder
	for k, f := range families {
		key, suffix := []string{"ipv4_addr", "ipv6_addr"}[k], ""
		if link != "" {
			key, suffix = key+" . ifname", fmt.Sprintf(" . %q", link)
		}
		fmt.Fprintf(&b, "\tset sent%s {\n\t\ttype %s\n\t\tcounter\n\t\telements = {\n", []string{"4", "6"}[k], key)
		for _, pod := range f.annotated(n.pods) {
			fmt.Fprintf(&b, "%s%s,\n", pod, suffix)
		}
		b.WriteString("\t\t}\n\t}\n")
	}
	return b.String()
}

// inTable puts objects at the beginning of a table.
func inTable(table, objects string) string {
	return strings.Replace(table, "{\n", "{\n"+objects+"\n", 1)
}
