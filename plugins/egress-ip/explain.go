package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"

	"github.com/egress-ip/egress-ip/pkg/node"
)

const explainHelp = `usage: egress-ip explain POD [--to ADDRESS]

Prints which way the first packet of a connection goes that an annotated pod opens:
its mark, the rule that takes it, the table, the route, its source. The kernel is
asked; nothing is sent. Each line ends with what prints the same.

POD is namespace/name, an address of the pod, or the ID of its container: that of the
sandbox, as "crictl pods" has it; the first 8 characters are enough. Without --to it
is 8.8.8.8 and 2001:4860:4860::8888, as the pod has egress. A Service's address is
not a destination: name that of its backend. Marks that somebody else sets, and
masquerading behind egress-ip, are not looked at.

Exit status: 0, it goes as the annotation says. 1, it does not, or the annotation
names no address of the destination's family. 2, no such pod, or the node could not
be looked at, or the command line is wrong.`

// explainCommand serves `egress-ip explain`, and returns the exit status.
func explainCommand(args []string) int {
	flags := newFlags("explain", explainHelp)
	destination := flags.String("to", "", "the destination, `ADDRESS`, behind all DNAT")
	if exit, done := parse(flags, args, 1); done {
		return exit
	}
	if flags.NArg() != 1 {
		return explainError(errors.New("which POD? namespace/name, an address, or a container ID; see egress-ip explain -h"))
	}
	var to netip.Addr
	if flags.Changed("to") {
		var err error
		if to, err = parseDestination(*destination); err != nil {
			return explainError(err)
		}
	}
	ways, failed := node.Explain(flags.Arg(0), to)
	status := 0
	for i, w := range ways {
		if i > 0 {
			fmt.Println()
		}
		if err := printWay(os.Stdout, w); err != nil {
			return explainError(err)
		}
		if !w.Right {
			status = 1
		}
	}
	if failed != nil {
		return explainError(failed)
	}
	return status
}

func explainError(err error) int {
	fmt.Fprintln(os.Stderr, "egress-ip explain:", err)
	return 2
}

// parseDestination takes what the kernel can route.
func parseDestination(s string) (netip.Addr, error) {
	to, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("--to %q is not an IP address; look a name up first", s)
	}
	to = to.Unmap()
	if to.IsUnspecified() || to.IsLoopback() || to.IsMulticast() || to.IsLinkLocalUnicast() {
		return netip.Addr{}, fmt.Errorf("--to %s is not an address that a node forwards packets to; name a global unicast address", to)
	}
	return to, nil
}
