package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"time"

	"github.com/egress-ip/egress-ip/pkg/kernel"
	"github.com/egress-ip/egress-ip/pkg/node"
	"github.com/egress-ip/egress-ip/pkg/watch"
	"golang.org/x/sys/unix"
)

const resyncHelp = `usage: egress-ip resync [--watch [--every 5m]]

Makes the kernel what the record in /run/egress-ip says: puts up what is missing,
changes what is wrong, and prints a line for each change, or "nothing to do".

With --watch it does so now, and from now on whenever something has changed that
may matter: links, addresses, routes, rules, and its own nftables tables; and about
every 5 minutes all the same. In between it is idle. It logs to stderr, and ends at SIGTERM or SIGINT, with status 0. One
process does this for a node; a second one says so and ends with status 2. It knows
systemd's Type=notify and WatchdogSec: see conflist-examples/systemd.`

func resync(args []string) int {
	flags := newFlags("resync", resyncHelp)
	watching := flags.Bool("watch", false, "go on, and resync whenever something has changed")
	every := flags.Duration("every", watch.Period, "with --watch: resync about this often, also where nothing seems to have changed")
	if exit, done := parse(flags, args, 0); done {
		return exit
	}
	if *every < time.Second {
		fmt.Fprintf(os.Stderr, "egress-ip resync: --every %s is less than a second; see egress-ip resync -h\n", *every)
		return wrongCommandLine
	}
	if *watching {
		return untilSignalled(func(ctx context.Context, broken func(error)) error { return watchNode(ctx, *every, broken) })
	}
	changed, err := resyncNode()
	for _, c := range changed {
		fmt.Println(c)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "egress-ip resync:", err)
		return couldNot
	}
	if len(changed) == 0 {
		fmt.Println("nothing to do")
	}
	return 0
}

// resyncNode opens the node anew each time: what is wrong with a socket is so for
// one resync, and the lock is free in between.
func resyncNode() (changed []string, err error) {
	n, err := node.Open()
	if err != nil {
		return nil, err
	}
	defer n.Close()
	return n.Resync()
}

// untilSignalled runs something that goes on until its context is done, by a signal
// or because it calls broken, and returns the exit status.
func untilSignalled(run func(ctx context.Context, broken func(error)) error) int {
	debug.SetGCPercent(100) // this command does not end
	signalled, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	context.AfterFunc(signalled, stop) // a second signal ends the process at once
	ctx, broken := context.WithCancelCause(signalled)
	err := run(ctx, broken)
	if err == nil && signalled.Err() == nil {
		err = context.Cause(ctx)
	}
	if err == nil {
		return 0
	}
	slog.Error("cannot watch", "error", err)
	var running *watch.RunningError
	if errors.As(err, &running) {
		return wrongCommandLine
	}
	return couldNot
}

// watchNode resyncs until ctx is done; broken is called when events no longer come.
func watchNode(ctx context.Context, every time.Duration, broken func(error)) error {
	release, err := watch.Resync.Claim()
	if err != nil {
		return err
	}
	defer release()
	manager, err := watch.Systemd()
	if err != nil {
		return err
	}
	events, err := kernel.Subscribe(broken)
	if err != nil {
		return err
	}
	defer events.Close()
	watch.Run(ctx, events.C, resyncNode, manager, every)
	return nil
}
