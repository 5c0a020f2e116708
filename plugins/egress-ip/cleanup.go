package main

import (
	"fmt"
	"os"

	"github.com/egress-ip/egress-ip/pkg/node"
)

const cleanupHelp = `usage: egress-ip cleanup [--force]

Takes everything of egress-ip's off this node: rules, tables, addresses, nftables
tables, the record, names of tables; and prints a line for each thing. While pods
are recorded it does so only with --force; they leave by the main table from then
on. While the entry stands in the conflist the next pod puts things up again: egress-ip
uninstall takes that out, and then does the same.`

func cleanup(args []string) int {
	flags := newFlags("cleanup", cleanupHelp)
	force := flags.Bool("force", false, "also while pods are recorded")
	if exit, done := parse(flags, args, 0); done {
		return exit
	}
	removed, err := cleanNode(*force)
	for _, line := range removed {
		fmt.Println(line)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "egress-ip cleanup:", err)
		return couldNot
	}
	if len(removed) == 0 {
		fmt.Println("nothing to do")
	}
	return 0
}

func cleanNode(force bool) (removed []string, err error) {
	n, err := node.Open()
	if err != nil {
		return nil, err
	}
	defer n.Close()
	return n.Cleanup(force)
}
