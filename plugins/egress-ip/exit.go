package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/pflag"
)

// Exit statuses of the commands, beside 0.
const (
	couldNot         = 1
	unhealthy        = 1 // status: something is not as it should be
	wrongCommandLine = 2
)

// newFlags returns the flags of a command, still without any. The help begins with
// "usage: " and how to call it, and says what it does.
func newFlags(name, help string) *pflag.FlagSet {
	flags := pflag.NewFlagSet(name, pflag.ContinueOnError)
	flags.SortFlags = false
	flags.Usage = func() {
		fmt.Println(help)
		if flags.HasFlags() {
			fmt.Printf("\n%s", flags.FlagUsages())
		}
	}
	return flags
}

// parse reads a command line with this many arguments at the most that are no
// flags. Done says that there is nothing more to do: help was asked for, or the
// line is wrong, and a message is on stderr.
func parse(flags *pflag.FlagSet, args []string, arguments int) (exit int, done bool) {
	err := flags.Parse(args) // prints the help itself
	switch {
	case errors.Is(err, pflag.ErrHelp):
		return 0, true
	case err == nil && flags.NArg() > arguments:
		err = fmt.Errorf("unexpected argument %q", flags.Arg(arguments))
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "egress-ip %s: %s; see egress-ip %s -h\n", flags.Name(), err, flags.Name())
		return wrongCommandLine, true
	}
	return 0, false
}
