package main

import (
	"fmt"
	"strings"
)

func printVersion(args []string) int {
	flags := newFlags("version", "usage: egress-ip version\n\nPrints the version, and the CNI versions it speaks.")
	if exit, done := parse(flags, args, 0); done {
		return exit
	}
	fmt.Printf("egress-ip %s, CNI %s\n", version, strings.Join(supported.SupportedVersions(), " "))
	return 0
}
