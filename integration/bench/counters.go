package main

// countersSystems show what counting each annotated pod's packets costs. The first four
// count nothing: three are the base, and the fourth, and how it differs from them,
// shows how well the measurement tells things apart.
var countersSystems = []system{
	{label: "as it ships", attach: attachOurs, arrive: byEgress, base: true},
	{label: "as it ships, second node", attach: attachOurs, arrive: byEgress, base: true},
	{label: "as it ships, third node", attach: attachOurs, arrive: byEgress, base: true},
	{label: "as it ships, reloaded by nft", attach: attachReloaded, arrive: byEgress},
	{label: "counters: true", attach: attachCounted, arrive: byEgress},
}

// attachReloaded is egress-ip with its table as nft reads and writes it.
func attachReloaded(s *scope, n *node) {
	attachOurs(s, n)
	n.run(s, "delete table inet egress_ip\n"+n.run(s, "", "nft", "list", "table", "inet", "egress_ip"), "nft", "-f", "-")
}
