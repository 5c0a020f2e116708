package main

import (
	"fmt"
	"io"
	"os"
	"strings"
)

const usage = `egress-ip is a CNI plugin; container runtimes call it. For people it has:

  egress-ip version    print the version, and the CNI versions it speaks
  egress-ip help       print this; -h behind a command is about that command

README.md says how to configure it.
`

// person serves a command line, and returns the exit status: 0, or 2 where the
// command line is wrong.
func person(args []string) int {
	command := "help"
	if len(args) > 0 {
		command = args[0]
	}
	help := len(args) > 1 && isHelp(args[1])
	switch {
	case len(args) == 0:
		fmt.Fprint(os.Stderr, usage)
		return 2
	case command == "help" || isHelp(command):
		fmt.Print(usage)
	case command == "resync":
		return resyncCommand(args[1:])
	case command == "version" && help:
		fmt.Println("usage: egress-ip version\n\nPrints the version, and the CNI versions it speaks.")
	case command == "version" && len(args) == 1:
		printVersion(os.Stdout)
	case command == "version":
		fmt.Fprintf(os.Stderr, "egress-ip version takes no argument, but got %q\n", args[1])
		return 2
	default:
		fmt.Fprintf(os.Stderr, "egress-ip: unknown command %q; there are version and help\n", command)
		return 2
	}
	return 0
}

func isHelp(arg string) bool { return arg == "-h" || arg == "-help" || arg == "--help" }

func printVersion(w io.Writer) {
	fmt.Fprintf(w, "egress-ip %s, CNI %s\n", version, strings.Join(supported.SupportedVersions(), " "))
}
