package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/spf13/pflag"
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
		return help(args)
	case "--version":
		name = versionCommand.name
	}
	c, err := find(name)
	if err != nil {
		return report("egress-ip", err)
	}
	return c.run(args)
}

// help prints the usage of all, or of one command.
func help(args []string) int {
	switch len(args) {
	case 0:
		usage(os.Stdout)
		return exitOK
	case 1:
		c, err := find(args[0])
		if err != nil {
			return report("egress-ip", err)
		}
		flags, _, _ := c.prepare()
		flags.Usage()
		return exitOK
	default:
		return report("egress-ip", &usageError{fmt.Errorf("unexpected argument %q; see egress-ip help", args[1])})
	}
}

func find(name string) (command, error) {
	i := slices.IndexFunc(commands, func(c command) bool { return c.name == name })
	switch {
	case i >= 0:
		return commands[i], nil
	case strings.HasPrefix(name, "-"):
		return command{}, &usageError{fmt.Errorf("unknown flag %s; -v belongs after a command, and egress-ip help names the commands", name)}
	default:
		return command{}, &usageError{fmt.Errorf("unknown command %q; there are %s and help", name, strings.Join(names(), ", "))}
	}
}

// prepare returns the command's flags, and what follows once they are parsed.
func (c command) prepare() (flags *pflag.FlagSet, verbose *bool, a action) {
	flags = pflag.NewFlagSet(c.name, pflag.ContinueOnError)
	flags.SortFlags = false
	a = c.setUp(flags)
	verbose = flags.BoolP("verbose", "v", false, "log more, to stderr")
	flags.Usage = func() { fmt.Printf("%s\n\n%s\n%s", c.help, flags.FlagUsages(), c.exitStatuses()) }
	return flags, verbose, a
}

// run serves the command line behind the command's name, and returns the exit status.
func (c command) run(args []string) int {
	flags, verbose, a := c.prepare()
	err := flags.Parse(args) // prints the help itself
	if errors.Is(err, pflag.ErrHelp) {
		return exitOK
	}
	if err == nil && flags.NArg() > c.arguments {
		err = fmt.Errorf("unexpected argument %q", flags.Arg(c.arguments))
	}
	if err == nil && a.check != nil {
		err = a.check(flags.Args())
	}
	if err != nil {
		return report("egress-ip "+c.name, &usageError{fmt.Errorf("%w; see egress-ip %s -h", err, c.name)})
	}
	if *verbose {
		slog.SetDefault(slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})))
	}
	slog.Debug("egress-ip", "version", version, "commit", commit, "command", c.name)
	// A command ends before there is garbage worth collecting.
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(commandMemory)
	if err = c.needs.check(); err == nil {
		err = a.run()
	}
	return report("egress-ip "+c.name, err)
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
	fmt.Fprintf(w, "  egress-ip %-10s %s\n", "help", "print this; help COMMAND, or COMMAND -h, is about that command")
	fmt.Fprintf(w, "\n%s\nplugins/egress-ip/README.md in the sources says how to configure it.\n", exitStatuses(map[int]string{
		exitOK:      "done, or healthy",
		exitFailed:  "something is not as it should be, could not be repaired, or is refused",
		exitCannot:  "it cannot look at the node, or do anything: it is not root, or the kernel refuses",
		exitRunning: "another one runs: resync --watch, install --watch",
	}))
}
