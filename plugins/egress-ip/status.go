package main

import (
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/egress-ip/egress-ip/pkg/node"
	"github.com/egress-ip/egress-ip/pkg/status"
)

const statusHelp = `usage: egress-ip status [-o text|json|prometheus]

Shows the pods that leave by a link, the links, and the probe table: what is
recorded of them that the kernel does not have, what it has that is recorded
nowhere, and how much was sent. It changes nothing.

-o json is for programs: keys are added, but stay as they are. -o prometheus is for
node_exporter's textfile collector:

  egress-ip status -o prometheus >egress_ip.new; [ $? -le 1 ] && mv egress_ip.new egress_ip.prom

Exit status: 0, healthy. 1, something is missing or unrecorded, or a link is not
up. 2, the node could not be looked at, or the command line is wrong.`

var statusFormats = []string{"text", "json", "prometheus"}

func showStatus(args []string) int {
	flags := newFlags("status", statusHelp)
	format := flags.StringP("output", "o", statusFormats[0], "text, json or prometheus")
	if exit, done := parse(flags, args, 0); done {
		return exit
	}
	s, err := statusOf(*format)
	if err != nil {
		fmt.Fprintln(os.Stderr, "egress-ip status:", err)
		return wrongCommandLine
	}
	if !s.Healthy {
		return unhealthy
	}
	return 0
}

// statusOf looks at the node, and prints what it finds in this format.
func statusOf(format string) (s status.Status, err error) {
	if !slices.Contains(statusFormats, format) {
		return s, fmt.Errorf("-o %q: there are text, json and prometheus", format)
	}
	n, err := node.Open()
	if err != nil {
		return s, err
	}
	defer n.Close()
	if s, err = n.Status(); err != nil {
		return s, err
	}
	switch format {
	case "json":
		err = s.WriteJSON(os.Stdout)
	case "prometheus":
		err = s.WritePrometheus(os.Stdout, version)
	default:
		err = s.WriteText(os.Stdout, time.Now())
	}
	return s, err
}
