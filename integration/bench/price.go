package main

// priceSystems show what egress-ip's fixed price is made of, by parts of it.
var priceSystems = []system{
	{label: bare, attach: attachNothing, arrive: byPrimary, base: true},
	{label: "one rule that matches nothing", attach: attachRule, arrive: byPrimary},
	{label: "egress-ip's rules", attach: attachFlushed, arrive: byEgressUntranslated},
	{label: "an empty chain in prerouting", attach: attachHook, arrive: byPrimary},
	{label: ours, attach: attachOurs, arrive: byEgress},
}

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
