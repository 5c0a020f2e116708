package main

import (
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"slices"
	"strings"
)

// command is something that a person can ask for. Run gets what stands behind its
// name and returns the exit status: 0, 1 if it could not, and 2 if the command
// line is wrong.
type command struct {
	name, summary string
	run           func(args []string) int
}

// commands are in the order of the usage.
var commands = []command{
	{"status", "show pods, links and the probe table, and what is missing", showStatus},
	{"explain", "print which way a pod's packets go, and why", explainCommand},
	{"resync", "make the kernel what the record says, once or from now on", resync},
	{"cleanup", "take everything of egress-ip's off this node", cleanup},
	{"install", "put the binary and its entry in their places on this node, once or from now on", installCommand},
	{"uninstall", "take the entry and the binary off this node", uninstallCommand},
	{"version", "print the version, and the CNI versions it speaks", printVersion},
}

// person serves a command line, and returns the exit status.
func person(args []string) int {
	if len(args) == 0 {
		usage(os.Stderr)
		return wrongCommandLine
	}
	if args[0] == "help" || isHelp(args[0]) {
		usage(os.Stdout)
		return 0
	}
	i := slices.IndexFunc(commands, func(c command) bool { return c.name == args[0] })
	if i < 0 {
		fmt.Fprintf(os.Stderr, "egress-ip: unknown command %q; there are %s and help\n", args[0], strings.Join(names(), ", "))
		return wrongCommandLine
	}
	// A command ends before there is garbage worth collecting.
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(commandMemory)
	return commands[i].run(args[1:])
}

// commandMemory is some ten times what a node of 1,000 pods takes.
const commandMemory = 256 << 20

func names() []string {
	var names []string
	for _, c := range commands {
		names = append(names, c.name)
	}
	return names
}

func usage(w io.Writer) {
	fmt.Fprint(w, "egress-ip is a CNI plugin; container runtimes call it. For people it has:\n\n")
	for _, c := range commands {
		fmt.Fprintf(w, "  egress-ip %-10s %s\n", c.name, c.summary)
	}
	fmt.Fprintf(w, "  egress-ip %-10s %s\n", "help", "print this; -h behind a command is about that command")
	fmt.Fprint(w, "\nplugins/egress-ip/README.md in the sources says how to configure it.\n")
}

func isHelp(arg string) bool { return arg == "-h" || arg == "-help" || arg == "--help" }
