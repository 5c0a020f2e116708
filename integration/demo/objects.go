package main

import (
	"fmt"
	"strings"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"golang.org/x/sys/unix"
)

// objects is the fourth act: what an ADD makes stand in the kernel. What it
// shows is the difference of two readings, and so all that there is beside the
// bridge plugin's veth; and the probe table, which stood before.
func objects(t *teller, n *node, before reading) (*pod, reading) {
	const address = "192.168.124.99"
	p := n.attach(t, "annotated", map[string]string{addressAnnotation: address})
	with := n.read(t)

	t.heading(fmt.Sprintf("4. What the kernel has for the pod %s with %s: %q", p.IPv4, addressAnnotation, address))
	table, local := tableName(tableBase+n.Node.Index(t, nettest.SecondLink)), tableName(unix.RT_TABLE_LOCAL)
	sections := map[string][]string{}
	for _, l := range with.beyond(before) {
		switch {
		case l.kind == nftLine || l.kind == recordLine: // tables are shown whole; the record is no kernel object
		case l.kind == linkLine || l.kind != ruleLine && strings.Contains(l.text, " veth"): // the bridge plugin's
		case l.kind == routeLine && l.in == local: // the kernel's own, for an address
		case l.kind == routeLine && l.in != table:
			t.Fatalf("ADD should write routes into %s alone, and made in %s: %s", table, l.in, l.text)
		default:
			sections[l.kind] = append(sections[l.kind], l.text)
		}
	}
	for _, kind := range []string{ruleLine, routeLine, addressLine} {
		if len(sections[kind]) == 0 {
			t.Fatalf("ADD has made nothing that %s shows", kind)
		}
	}
	column(t, "ip rule", sections[ruleLine])
	column(t, table, sections[routeLine])
	column(t, "ip address", sections[addressLine])
	t.print("   nft, without what is only for IPv6:")
	showTable(t, with, "inet egress_ip")
	t.print("   and, once a node, for the probes:")
	showTable(t, with, "ip6 "+probeTable.Name)
	return p, with
}

func showTable(t *teller, r reading, name string) {
	for _, l := range r.table(t, name).text() {
		t.print("     %s", l)
	}
}

// column prints lines behind a label.
func column(t *teller, label string, lines []string) {
	for _, l := range lines {
		t.print("   %-11s %s", label, l)
		label = ""
	}
}
