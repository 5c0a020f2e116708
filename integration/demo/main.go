// Demo builds a node with two uplinks, a router, a server and pods out of
// network namespaces, attaches the pods with the reference plugins and
// egress-ip, and tells what egress-ip does by showing it.
//
// Every line that it prints is measured or read back. What does not come out as
// told ends the demo with a message and exit status 1, so it is a test as well.
// It needs root; `make demo` builds what it calls and runs it.
package main

import (
	"fmt"
	"os"
	"time"
)

func main() {
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "demo: network namespaces need root; try: sudo make demo")
		os.Exit(1)
	}
	os.Exit(tell(story))
}

// story is the whole demo, act by act.
func story(t *teller) {
	began := time.Now()
	t.print("%s All of it is measured, in network namespaces of its own; the host's network is left alone.", t.bold("egress-ip, a demo."))
	t.print("   pods ── cni0 [node] eth0   192.0.2.10     ──┬── [router] ── [server] 203.0.113.80, 2001:db8:80::80")
	t.print("                       enp7s0 192.168.124.10 ──┘")
	n := newNode(t)
	plain := n.attach(t, "plain", nil)
	before := n.read(t)

	sources(t, n, plain)
	routes(t, n, plain)
	probes(t, n, plain)
	annotated, with := objects(t, n, before)
	nothingLeft(t, n, annotated, before, with)

	n.detach(t, plain)
	t.print("")
	t.print("%s in %.1f s.", t.bold("All as told,"), time.Since(began).Seconds())
}
