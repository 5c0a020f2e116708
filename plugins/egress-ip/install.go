package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/egress-ip/egress-ip/pkg/conflist"
	"github.com/egress-ip/egress-ip/pkg/install"
	"github.com/egress-ip/egress-ip/pkg/watch"
	"github.com/spf13/pflag"
)

const installHelp = `usage: egress-ip install [--entry FILE | --link NAME --allow NAMESPACES=ADDRESSES ...] [--dry-run] [--watch]

Copies this binary into the folder of CNI plugins, and puts its entry into the
conflist that stands on this node, behind the main plugin; all else in it stays as
it is. It holds for pods that start from then on. Again with another entry it
changes that; the file as it was is kept beside it, as FILE.before-egress-ip.

The entry is that of --entry, an object as README.md shows it, or is made of the
flags from --link to --cluster-cidr. With neither, the one that stands there stays;
if none does, egress-ip keeps the probe table alone, and allows no annotation:

  egress-ip install --link enp7s0 --gateway 192.168.124.1 \
    --allow payments,team-*=192.168.124.96/28 --cluster-cidr 10.244.0.0/16 --cluster-cidr 10.96.0.0/12

With --watch it does so now, and again whenever the main plugin has written its file
anew, another file comes before it, or the binary is gone. Before there is a conflist
it waits for it. It logs to stderr, and ends at SIGTERM or SIGINT, with status 0; what
it has installed stays. One process does this for a folder.

Exit status: 0, done, or nothing to do. 1, it cannot work there, and nothing was
written, or it could not. 2, the command line is wrong, or another process watches.`

func installCommand(args []string) int {
	flags := newFlags("install", installHelp)
	place := placeFlags(flags)
	entry := entryFlags(flags)
	convert := flags.Bool("convert", false, "make a list of a file that has one plugin alone (.conf)")
	dryRun := flags.Bool("dry-run", false, "print what would change, and change nothing")
	watching := flags.Bool("watch", false, "go on, and put back what somebody undoes")
	if exit, done := parse(flags, args, 0); done {
		return exit
	}
	place.Convert = *convert
	if *dryRun && *watching {
		return wrong("install", fmt.Errorf("--dry-run and --watch: say one of them"))
	}
	if err := entry.check(flags); err != nil {
		return wrong("install", err)
	}
	wanted, err := entry.wanted()
	if err != nil {
		return failed("install", err)
	}
	switch {
	case *watching:
		return untilSignalled(func(ctx context.Context, broken func(error)) error {
			return watchInstall(ctx, *place, wanted, entry.follow(), broken)
		})
	case *dryRun:
		plan, err := place.Plan(wanted)
		return tellPlan("install", plan, err)
	}
	warnWatched(*place)
	plan, done, err := place.Install(wanted)
	return tell("install", plan, done, err)
}

// placeFlags are those of install and uninstall alike.
func placeFlags(flags *pflag.FlagSet) *install.Place {
	place := &install.Place{Versions: supported.SupportedVersions()}
	flags.StringVar(&place.BinDir, "bin-dir", "/opt/cni/bin", "folder of CNI plugins")
	flags.StringVar(&place.ConfDir, "conf-dir", "/etc/cni/net.d", "folder of network configurations")
	flags.StringVar(&place.Conflist, "conflist", "", "the conflist; without it the first file in --conf-dir, as runtimes choose")
	return place
}

func watchInstall(ctx context.Context, place install.Place, wanted install.Wanted, follow *install.Follow, broken func(error)) error {
	release, err := installTask(place).Claim()
	if err != nil {
		return err
	}
	defer release()
	manager, err := watch.Systemd()
	if err != nil {
		return err
	}
	return place.Watch(ctx, wanted, follow, manager, broken)
}

// installTask is what one process at a time does.
func installTask(place install.Place) watch.Task {
	path := place.ConfDir
	if absolute, err := filepath.Abs(path); err == nil {
		path = absolute
	}
	return watch.Install(path)
}

// warnWatched says that what is installed may be changed at once.
func warnWatched(place install.Place) {
	if pid, running, err := installTask(place).Running(); err == nil && running {
		slog.Warn("egress-ip install --watch is running, and puts its own entry back if it was given one", "process", pid)
	}
}

// tell prints what was done, and returns the exit status.
func tell(command string, plan install.Plan, done []string, err error) int {
	for _, line := range done {
		fmt.Println(line)
	}
	if err != nil {
		return failed(command, err)
	}
	about(plan)
	if len(done) == 0 {
		fmt.Println("nothing to do")
	}
	return 0
}

// tellPlan prints what would be done.
func tellPlan(command string, plan install.Plan, err error) int {
	if err != nil {
		return failed(command, err)
	}
	for _, s := range plan.Steps {
		fmt.Println("would have", s.Done)
		if s.Diff != "" {
			fmt.Print(s.Diff)
		}
	}
	about(plan)
	if len(plan.Steps) == 0 {
		fmt.Println("nothing to do")
	}
	return 0
}

// about says what a person is to know of a plan.
func about(plan install.Plan) {
	for _, line := range plan.Notes {
		fmt.Println(line)
	}
	for _, line := range plan.Warnings {
		slog.Warn(line)
	}
	if string(plan.Entry) == conflist.ProbeOnly {
		fmt.Println("the entry has no links: egress-ip keeps the probe table alone, and lets no pod with an annotation start; egress-ip install -h says how to name links")
	}
}

func failed(command string, err error) int {
	fmt.Fprintf(os.Stderr, "egress-ip %s: %s\n", command, err)
	return couldNot
}

func wrong(command string, err error) int {
	fmt.Fprintf(os.Stderr, "egress-ip %s: %s; see egress-ip %s -h\n", command, err, command)
	return wrongCommandLine
}
