package main

import "regexp"

// countersSystems are ways to count each annotated pod's packets. The first four
// count nothing: three are the base, and the fourth, and how it differs from them,
// shows how well the measurement tells things apart.
var countersSystems = []system{
	{label: "as it ships", attach: attachOurs, arrive: byEgress, base: true},
	{label: "as it ships, second node", attach: attachOurs, arrive: byEgress, base: true},
	{label: "as it ships, third node", attach: attachOurs, arrive: byEgress, base: true},
	{label: "as it ships, reloaded by nft", attach: edited(unedited), arrive: byEgress},
	{label: "counters: true", attach: attachCounted, arrive: byEgress},
	{label: "counters in the map out4", attach: edited(countInMap), arrive: byEgress},
}

// edited replaces the table of egress-ip by an edited copy.
func edited(edit func(s *scope, table string) string) func(*scope, *node) {
	return func(s *scope, n *node) {
		attachOurs(s, n)
		table := n.run(s, "", "nft", "list", "table", "inet", "egress_ip")
		n.run(s, "delete table inet egress_ip\n"+edit(s, table), "nft", "-f", "-")
	}
}

func unedited(_ *scope, table string) string { return table }

// countInMap has the elements of the classification count.
func countInMap(s *scope, table string) string {
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
