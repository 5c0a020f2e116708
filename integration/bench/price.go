package main

import (
	"regexp"

	"github.com/egress-ip/egress-ip/pkg/nettest"
)

// priceSystems show what egress-ip's fixed price is made of, by parts of it, and
// what two changes to its table would save.
var priceSystems = []system{
	{label: bare, attach: attachNothing, arrive: byPrimary, base: true},
	{label: "one rule that matches nothing", attach: attachRule, arrive: byPrimary},
	{label: "egress-ip's rules", attach: attachFlushed, arrive: byEgressUntranslated},
	{label: "an empty chain in prerouting", attach: attachHook, arrive: byPrimary},
	{label: "egress-ip's table, never a rule", attach: attachTable, arrive: byPrimaryTranslated},
	{label: ours, attach: attachOurs, arrive: byEgress},
	{label: "marks of others out of a map", attach: edited(markMap), arrive: byEgress},
	{label: "and maps of a known size", attach: edited(sizedMarkMap), arrive: byEgress},
}

// byPrimaryTranslated: where no rule sends a packet to the link its mark does nothing.
func byPrimaryTranslated(f family) arrival { return arrival{nettest.PrimaryLink, f.primary} }

// attachRule is the first rule of anybody's. It takes from the kernel the short
// way, one look-up in one tree of routes, for IPv4 also on the way back.
func attachRule(s *scope, n *node) {
	for _, f := range families {
		n.run(s, "", "ip", f.flag, "rule", "add", "from", f.server, "lookup", "main")
	}
}

func attachHook(s *scope, n *node) {
	n.run(s, "table inet egress_ip { chain prerouting { type filter hook prerouting priority dstnat + 10; }; }", "nft", "-f", "-")
}

// attachTable gives the node a table as another one has it. A node that has had
// rules does not go the short way again when they are gone.
func attachTable(s *scope, n *node) {
	other := newNode(s, nettest.New(s, "wire of another node"), 0, "another node", n.pods, 0)
	attachOurs(s, other)
	n.run(s, other.run(s, "", "nft", "list", "table", "inet", "egress_ip"), "nft", "-f", "-")
}

// markMap looks the whole mark up and writes what it finds, instead of masking
// it, looking it up, and masking it again in another chain.
func markMap(s *scope, table string) string {
	table = replace(s, table, regexp.MustCompile(`(?s)map unmarked {.*?\n\t}`), 1, `map unmarked {
		type mark : mark
		elements = { 0 : 0x0f000000, 0x4000 : 0x0f004000, 0x8000 : 0x0f008000, 0xc000 : 0x0f00c000 }
	}`)
	return replace(s, table, regexp.MustCompile(`meta mark & 0xffff3fff vmap @unmarked`), 1, "meta mark set meta mark map @unmarked")
}

// sizedMarkMap is markMap where the kernel may take a plain hash table, since it
// knows how many elements there will be at the most.
func sizedMarkMap(s *scope, table string) string {
	table = replace(s, markMap(s, table), regexp.MustCompile(`type mark : mark\n`), 1, "${0}size 4\n")
	return replace(s, table, regexp.MustCompile(`map (out|back)[46] {\n\t\ttype \w+ : verdict\n`), 4, "${0}size 16384\n")
}
