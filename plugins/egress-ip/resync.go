package main

import (
	"context"
	"fmt"
	"os/signal"
	"runtime/debug"
	"time"

	"github.com/egress-ip/egress-ip/pkg/kernel"
	"github.com/egress-ip/egress-ip/pkg/node"
	"github.com/egress-ip/egress-ip/pkg/watch"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"
)

var resyncCommand = command{
	name: "resync", summary: "make the kernel what the record says, once or from now on", needs: netAdmin,
	help: `usage: egress-ip resync [--watch [--every DURATION]]

Makes the kernel what the record in /run/egress-ip says: adds what is missing,
changes what is wrong, and prints a line for each change, or "nothing to do".

With --watch it does so now, and from now on whenever something has changed that
may matter: links, addresses, routes, rules, and its own nftables tables; and about
every 5 minutes all the same. In between it is idle. It logs to stderr, and ends at
SIGTERM or SIGINT, with status 0. At most one process does this on a node. It knows
systemd's Type=notify and WatchdogSec: see conflist-examples/systemd.`,
	exits: map[int]string{
		exitOK:      "done, or nothing to do; with --watch: ended by a signal",
		exitFailed:  "something could not be read or repaired",
		exitRunning: "with --watch: another process watches this node",
	},
	setUp: func(flags *pflag.FlagSet) action {
		watching := flags.Bool("watch", false, "go on, and resync whenever something has changed")
		every := flags.Duration("every", watch.Period, "with --watch: resync about this often, also where nothing seems to have changed")
		return action{
			check: func([]string) error {
				if *every < time.Second {
					return fmt.Errorf("--every %s is less than a second", *every)
				}
				return nil
			},
			run: func() error {
				if *watching {
					return untilSignalled(func(ctx context.Context, broken func(error)) error { return watchNode(ctx, *every, broken) })
				}
				return resync()
			},
		}
	},
}

// resync prints what it changes.
func resync() error {
	changed, err := resyncNode(nil)
	for _, c := range changed {
		fmt.Println(c)
	}
	if err == nil && len(changed) == 0 {
		fmt.Println("nothing to do")
	}
	return unlessRead(err)
}

// resyncNode opens the node again each time: what is wrong with a socket is so for
// one resync, and the lock is free in between. The guard, if any, stays.
func resyncNode(guard *kernel.HeldGuard) (changed []string, err error) {
	n, err := node.Open()
	if err != nil {
		return nil, err
	}
	defer n.Close()
	n.Hold(guard)
	return n.Resync()
}

// untilSignalled runs something that goes on until its context is done, by a signal
// or because it calls broken, and returns why it has ended, nil for a signal.
func untilSignalled(run func(ctx context.Context, broken func(error)) error) error {
	debug.SetGCPercent(100) // this command does not end
	signalled, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	context.AfterFunc(signalled, stop) // a second signal ends the process at once
	ctx, broken := context.WithCancelCause(signalled)
	err := run(ctx, broken)
	if err == nil && signalled.Err() == nil {
		err = context.Cause(ctx)
	}
	return err
}

// watchNode resyncs until ctx is done; broken is called when events no longer come.
func watchNode(ctx context.Context, every time.Duration, broken func(error)) error {
	release, err := watch.Resync.Claim()
	if err != nil {
		return cannot(err)
	}
	defer release()
	manager, err := watch.Systemd()
	if err != nil {
		return cannot(err)
	}
	events, err := kernel.Subscribe(broken)
	if err != nil {
		return cannot(err)
	}
	defer events.Close()
	var guard kernel.HeldGuard
	defer guard.Close()
	watch.Run(ctx, events.C, func() ([]string, error) { return resyncNode(&guard) }, manager, every)
	return nil
}

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
