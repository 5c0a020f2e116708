package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"

	"github.com/egress-ip/egress-ip/pkg/node"
	"github.com/spf13/pflag"
)

var explainCommand = command{
	name: "explain", summary: "print which way a pod's packets go, and why", needs: netAdmin, arguments: 1,
	help: `usage: egress-ip explain POD [--to ADDRESS]

Prints which way the first packet of a connection goes that an annotated pod opens:
its mark, the rule that takes it, the table, the route, its source. The kernel is
asked; nothing is sent. Each line ends with what prints the same.

POD is namespace/name, an address of the pod, or the ID of its container: that of the
sandbox, as "crictl pods" has it; the first 8 characters are enough. Without --to it
is 8.8.8.8 and 2001:4860:4860::8888, as the pod has egress. Of a Service in kube-proxy's
IPVS mode it is each backend, 8 at the most; in the other modes name a backend. Marks
that somebody else sets, and masquerading behind egress-ip, are not looked at.`,
	exits: map[int]string{
		exitOK:     "it goes as the annotation says",
		exitFailed: "it does not, or the annotation names no address of the destination's family",
		exitCannot: "no such pod, or it cannot look at the node: it is not root, or the kernel refuses",
	},
	setUp: func(flags *pflag.FlagSet) action {
		destination := flags.String("to", "", "the destination's `address`, behind all DNAT")
		var pod string
		var to netip.Addr
		return action{
			check: func(arguments []string) (err error) {
				if len(arguments) == 0 {
					return errors.New("which POD? namespace/name, an address, or a container ID")
				}
				pod = arguments[0]
				if flags.Changed("to") {
					to, err = parseDestination(*destination)
				}
				return err
			},
			run: func() error { return explain(pod, to) },
		}
	},
}

// explain prints all ways that could be found.
func explain(pod string, to netip.Addr) error {
	ways, failed := node.Explain(pod, to)
	err := cannot(failed)
	for i, w := range ways {
		if i > 0 {
			fmt.Println()
		}
		if err := printWay(os.Stdout, w); err != nil {
			return cannot(err)
		}
		if !w.Right && err == nil {
			err = errPrinted
		}
	}
	return err
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
