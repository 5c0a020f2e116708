package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/egress-ip/egress-ip/pkg/node"
	"github.com/egress-ip/egress-ip/pkg/watch"
)

// Exit statuses, of all commands alike.
const (
	exitOK      = 0
	exitFailed  = 1 // something is not as it should be, could not be repaired, or is refused
	exitUsage   = 2 // the command line is wrong, and nothing else
	exitCannot  = 3 // it could not look at the node, or do anything
	exitRunning = 4 // another one runs
)

// errPrinted ends a command that has printed what is not as it should be.
var errPrinted = errors.New("something is not as it should be")

// usageError says that the command line is wrong.
type usageError struct{ error }

func (e *usageError) Unwrap() error { return e.error }

// cannotError says that the command could not look at the node, or do anything.
type cannotError struct{ error }

func (e *cannotError) Unwrap() error { return e.error }

// cannot makes a cannotError of an error; nil stays nil.
func cannot(err error) error {
	if err == nil {
		return nil
	}
	return &cannotError{err}
}

// unlessRead makes a cannotError of the error of what reads the node before it changes
// anything, if reading has failed.
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
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, new(*usageError)):
		return exitUsage
	case errors.As(err, new(*watch.RunningError)):
		return exitRunning
	case errors.As(err, new(*cannotError)):
		return exitCannot
	default:
		return exitFailed
	}
}

// exitStatuses lists the command's, for its help.
func (c command) exitStatuses() string {
	all := map[int]string{exitOK: "done, or nothing to do"}
	if c.needs != nothing {
		all[exitCannot] = "it cannot do anything: it is not root, or the kernel refuses"
	}
	for status, text := range c.exits {
		all[status] = text
	}
	return exitStatuses(all)
}

func exitStatuses(all map[int]string) string {
	all[exitUsage] = "the command line is wrong"
	var b strings.Builder
	b.WriteString("Exit status:\n")
	for status := exitOK; status <= exitRunning; status++ {
		if text, ok := all[status]; ok {
			fmt.Fprintf(&b, "  %d  %s\n", status, text)
		}
	}
	return b.String()
}
