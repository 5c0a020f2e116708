package main

import (
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/egress-ip/egress-ip/pkg/node"
	"github.com/egress-ip/egress-ip/pkg/status"
	"github.com/spf13/pflag"
)

var statusCommand = command{
	name: "status", summary: "show pods, links and the probe table, and what is missing", needs: netAdmin,
	help: `usage: egress-ip status [-o text|json|prometheus]

Shows the pods that leave by a link, the links, and the probe table: what is
recorded of them that the kernel does not have, what it has that is recorded
nowhere, and how much was sent. It changes nothing.

-o json is for programs: keys are added, but stay as they are. -o prometheus is for
node_exporter's textfile collector:

  egress-ip status -o prometheus >egress_ip.new; [ $? -le 1 ] && mv egress_ip.new egress_ip.prom`,
	exits: map[int]string{
		exitOK: "healthy",
		exitFailed: `something is missing, unrecorded or in the way, a link is not up, the guard has
     dropped packets, or a part of the node could not be read`,
		exitCannot: "it cannot look at the node: it is not root, or the kernel refuses",
	},
	setUp: func(flags *pflag.FlagSet) action {
		format := flags.StringP("output", "o", statusFormats[0], "print in this `format`: text, json or prometheus")
		return action{
			check: func([]string) error {
				if !slices.Contains(statusFormats, *format) {
					return fmt.Errorf("-o %q: there are text, json and prometheus", *format)
				}
				return nil
			},
			run: func() error {
				s, err := printStatus(*format)
				if err == nil && !s.Healthy {
					err = errPrinted
				}
				return err
			},
		}
	},
}

var statusFormats = []string{"text", "json", "prometheus"}

// printStatus looks at the node, and prints what it finds in this format.
func printStatus(format string) (s status.Status, err error) {
	n, err := node.Open()
	if err != nil {
		return s, cannot(err)
	}
	defer n.Close()
	if s, err = n.Status(); err != nil {
		return s, cannot(err)
	}
	switch format {
	case "json":
		err = s.WriteJSON(os.Stdout)
	case "prometheus":
		err = s.WritePrometheus(os.Stdout, version)
	default:
		err = s.WriteText(os.Stdout, time.Now())
	}
	return s, cannot(err)
}
