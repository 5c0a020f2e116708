package main

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"

	"golang.org/x/sys/unix"
)

// privilege is what a command needs.
type privilege int

const (
	nothing  privilege = iota
	root               // it reads and writes files of root's
	netAdmin           // root, and the kernel asks for CAP_NET_ADMIN where nftables is only read
)

// check says what is missing, before the kernel says that something is not permitted.
func (p privilege) check() error {
	switch {
	case p == nothing:
		return nil
	case os.Geteuid() != 0:
		return cannot(fmt.Errorf("run as root: sudo %s", shellWords(os.Args)))
	case p == netAdmin && !hasNetAdmin():
		return cannot(errors.New("run as root with CAP_NET_ADMIN, which this process of root's does not have: on the node itself, or in a container with NET_ADMIN"))
	}
	return nil
}

// hasNetAdmin reports whether the process has the capability; true if that cannot be told.
func hasNetAdmin() bool {
	var sets [2]unix.CapUserData // 32 capabilities each
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	return unix.Capget(&header, &sets[0]) != nil || sets[0].Effective&(1<<unix.CAP_NET_ADMIN) != 0
}

// plainWord is one that a shell takes as it is.
var plainWord = regexp.MustCompile(`^[\w@%+=:,./-]+$`)

// shellWords quotes a command line for a shell.
func shellWords(args []string) string {
	words := make([]string, len(args))
	for i, arg := range args {
		if words[i] = arg; !plainWord.MatchString(arg) {
			words[i] = "'" + strings.ReplaceAll(arg, "'", `'\''`) + "'"
		}
	}
	return strings.Join(words, " ")
}
