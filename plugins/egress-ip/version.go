package main

import (
	"fmt"
	"runtime"
	"strings"
)

const versionHelp = `usage: egress-ip version

Prints the version and the CNI versions it speaks; the commit that it is built from and
when that was made; and the Go version that built it, and for what.`

func printVersion(args []string) int {
	flags := newFlags("version", versionHelp)
	if exit, done := parse(flags, args, 0); done {
		return exit
	}
	fmt.Printf("egress-ip %s, CNI %s\n", version, strings.Join(supported.SupportedVersions(), " "))
	if commit == "" {
		fmt.Println("commit unknown: built outside of its repository")
	} else {
		fmt.Printf("commit %s, %s\n", commit, commitDate)
	}
	fmt.Printf("%s %s/%s\n", runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return 0
}
