package main

import (
	"fmt"
	"runtime"
	"strings"

	"github.com/spf13/pflag"
)

var versionCommand = command{
	name: "version", summary: "print the version, and the CNI versions it speaks; --version does, too",
	help: `usage: egress-ip version

Prints the version and the CNI versions it speaks; the commit that it is built from and
when that was made; and the Go version that built it, and for what.`,
	exits: map[int]string{exitOK: "printed"},
	setUp: func(*pflag.FlagSet) action { return action{run: printVersion} },
}

func printVersion() error {
	fmt.Printf("egress-ip %s, CNI %s\n", version, strings.Join(supported.SupportedVersions(), " "))
	if commit == "" {
		fmt.Println("commit unknown: built outside of its repository")
	} else {
		fmt.Printf("commit %s, %s\n", commit, commitDate)
	}
	fmt.Printf("%s %s/%s\n", runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return nil
}
