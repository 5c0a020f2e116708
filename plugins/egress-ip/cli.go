package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"regexp"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/egress-ip/egress-ip/pkg/node"
	"github.com/egress-ip/egress-ip/pkg/watch"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"
)

// command is something that a person can ask for.
type command struct {
	name, summary string
	help          string // begins with "usage: " and how to call it, and says what it does
	exits         map[int]string
	arguments     int // that are no flags, at most
	needs         privilege

	// setUp declares the flags, and returns what follows once they are parsed.
	setUp func(flags *pflag.FlagSet) action
}

// action is what a command does.
type action struct {
	// check finds what is wrong with the command line, whoever has written it; nil: nothing is.
	check func(arguments []string) error
	run   func() error
}

// commands are in the order of the usage.
var commands = []command{statusCommand, explainCommand, resyncCommand, cleanupCommand, installCommand, uninstallCommand, versionCommand}

// cli serves a command line, and returns the exit status.
func cli(args []string) int {
	if len(args) == 0 {
		usage(os.Stderr)
		return exitUsage
	}
	name, args := args[0], args[1:]
	switch name {
	case "help", "-h", "-help", "--help":
		switch {
		case len(args) == 0:
			usage(os.Stdout)
			return exitOK
		case len(args) > 1:
			return report("egress-ip", wrong("unexpected argument %q; see egress-ip help", args[1]))
		}
		name, args = args[0], []string{"-h"}
	case "--version":
		name = versionCommand.name
	}
	i := slices.IndexFunc(commands, func(c command) bool { return c.name == name })
	switch {
	case i >= 0:
		return report("egress-ip "+name, commands[i].serve(args))
	case strings.HasPrefix(name, "-"):
		return report("egress-ip", wrong("unknown flag %s; -v belongs after a command, and egress-ip help names the commands", name))
	default:
		var names []string
		for _, c := range commands {
			names = append(names, c.name)
		}
		return report("egress-ip", wrong("unknown command %q; there are %s and help", name, strings.Join(names, ", ")))
	}
}

// commandMemory is some ten times what a node of 1,000 pods takes.
const commandMemory = 256 << 20

// serve serves the command line behind the command's name.
func (c command) serve(args []string) error {
	flags := pflag.NewFlagSet(c.name, pflag.ContinueOnError)
	flags.SortFlags = false
	a := c.setUp(flags)
	verbose := flags.BoolP("verbose", "v", false, "log more, to stderr")
	flags.Usage = func() { fmt.Printf("%s\n\n%s\n%s", c.help, flags.FlagUsages(), exitStatuses(c.exits, c.needs)) }
	err := flags.Parse(args)
	if errors.Is(err, pflag.ErrHelp) {
		return nil // it has printed the usage
	}
	if err == nil && flags.NArg() > c.arguments {
		err = fmt.Errorf("unexpected argument %q", flags.Arg(c.arguments))
	}
	if err == nil && a.check != nil {
		err = a.check(flags.Args())
	}
	if err != nil {
		return wrong("%w; see egress-ip %s -h", err, c.name)
	}
	if *verbose {
		slog.SetDefault(slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})))
	}
	slog.Debug("egress-ip", "version", version, "commit", commit, "command", c.name)
	// A command ends before there is garbage worth collecting.
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(commandMemory)
	if err := c.needs.check(); err != nil {
		return err
	}
	return a.run()
}

func usage(w io.Writer) {
	fmt.Fprint(w, "egress-ip is a CNI plugin; container runtimes call it. For people it has:\n\n")
	for _, c := range commands {
		fmt.Fprintf(w, "  egress-ip %-10s %s\n", c.name, c.summary)
	}
	fmt.Fprintf(w, "  egress-ip %-10s %s\n", "help", "print this; help COMMAND, or COMMAND -h, is about that command")
	fmt.Fprintf(w, "\n%s\nplugins/egress-ip/README.md in the sources says how to configure it.\n", exitStatuses(map[int]string{
		exitOK:      "done, or healthy",
		exitFailed:  "something is not as it should be, could not be repaired, or is refused",
		exitCannot:  "it cannot look at the node, or do anything: it is not root, or the kernel refuses",
		exitRunning: "another one runs: resync --watch, install --watch",
	}, nothing))
}

// Exit statuses, of all commands alike.
const (
	exitOK      = 0
	exitFailed  = 1 // something is not as it should be, could not be repaired, or is refused
	exitUsage   = 2 // the command line is wrong, and nothing else
	exitCannot  = 3 // it could not look at the node, or do anything
	exitRunning = 4 // another one runs
)

// exitStatuses lists those of a command, for its help.
func exitStatuses(of map[int]string, needs privilege) string {
	all := map[int]string{exitOK: "done, or nothing to do", exitUsage: "the command line is wrong"}
	if needs != nothing {
		all[exitCannot] = "it cannot do anything: it is not root, or the kernel refuses"
	}
	maps.Copy(all, of)
	var b strings.Builder
	b.WriteString("Exit status:\n")
	for _, status := range slices.Sorted(maps.Keys(all)) {
		fmt.Fprintf(&b, "  %d  %s\n", status, all[status])
	}
	return b.String()
}

// exitError is an error that has an exit status of its own; other errors have exitFailed.
type exitError struct {
	error
	status int
}

func (e *exitError) Unwrap() error { return e.error }

// errPrinted ends a command that has printed what is not as it should be.
var errPrinted = errors.New("something is not as it should be")

// wrong says what is wrong with the command line.
func wrong(format string, args ...any) error {
	return &exitError{fmt.Errorf(format, args...), exitUsage}
}

// cannot says that the command could not look at the node, or do anything; nil stays nil.
func cannot(err error) error {
	if err == nil {
		return nil
	}
	return &exitError{err, exitCannot}
}

// unlessRead is for what reads the node before it changes anything: if reading has failed it
// could not do anything.
func unlessRead(err error) error {
	if errors.As(err, new(*node.ReadError)) {
		return cannot(err)
	}
	return err
}

// report prints an error, and returns the exit status.
func report(who string, err error) int {
	if err != nil && !errors.Is(err, errPrinted) {
		fmt.Fprintf(os.Stderr, "%s: %s\n", who, err)
	}
	var exit *exitError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, new(*watch.RunningError)):
		return exitRunning
	case errors.As(err, &exit):
		return exit.status
	default:
		return exitFailed
	}
}

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
