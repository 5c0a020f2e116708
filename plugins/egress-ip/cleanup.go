package main

import (
	"fmt"

	"github.com/egress-ip/egress-ip/pkg/node"
	"github.com/spf13/pflag"
)

var cleanupCommand = command{
	name: "cleanup", summary: "take everything of egress-ip's off this node", needs: netAdmin,
	help: `usage: egress-ip cleanup [--force]

Takes everything of egress-ip's off this node: rules, tables, addresses, nftables
tables, the record, names of tables; and prints a line for each thing. While pods
are recorded it does so only with --force; they leave by the main table from then
on. As long as the entry is in the conflist the next pod brings all of it back: egress-ip
uninstall takes that out, and then does the same.`,
	exits: map[int]string{exitFailed: "pods are recorded, or something could not be removed"},
	setUp: func(flags *pflag.FlagSet) action {
		force := flags.Bool("force", false, "also while pods are recorded")
		return action{run: func() error {
			removed, err := cleanNode(*force)
			if err == nil && len(removed) == 0 {
				fmt.Println("nothing to do")
			}
			return unlessRead(err)
		}}
	},
}

// cleanNode prints a line for each thing that it takes away.
func cleanNode(force bool) (removed []string, err error) {
	n, err := node.Open()
	if err != nil {
		return nil, err
	}
	defer n.Close()
	removed, err = n.Cleanup(force)
	for _, line := range removed {
		fmt.Println(line)
	}
	return removed, err
}
