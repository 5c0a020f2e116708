package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"

	"github.com/egress-ip/egress-ip/pkg/conflist"
	"github.com/egress-ip/egress-ip/pkg/install"
	"github.com/egress-ip/egress-ip/pkg/record"
	"github.com/egress-ip/egress-ip/pkg/watch"
	"github.com/spf13/pflag"
)

var installCommand = command{
	name: "install", summary: "put the binary and its entry in their places on this node, once or from now on", needs: root,
	help: `usage: egress-ip install [--entry FILE | --link NAME --allow NAMESPACES=ADDRESSES ...] [--dry-run] [--watch]

Copies this binary into the directory of CNI plugins, and puts its entry into the
conflist of this node, behind the main plugin; all else in it stays as it is. It
holds for pods that start from then on. Again with another entry it changes that;
the file as it was is kept beside it, as FILE.before-egress-ip.

The entry is that of --entry, an object as README.md shows it, or is made of the
flags from --link to --cluster-cidr. With neither, the one that is there stays;
if there is none, egress-ip keeps the probe table alone, and allows no annotation:

  egress-ip install --link enp7s0 --gateway 192.168.124.1 \
    --allow payments,team-*=192.168.124.96/28 --cluster-cidr 10.244.0.0/16 --cluster-cidr 10.96.0.0/12

With --watch it does so now, and again whenever the main plugin has written its file
again, another file comes before it, or the binary is gone. Before there is a conflist
it waits for it. It logs to stderr, and ends at SIGTERM or SIGINT, with status 0; what
it has installed stays. At most one process does this for a directory.`,
	exits: map[int]string{
		exitOK:      "done, or nothing to do; with --watch: ended by a signal",
		exitFailed:  "it cannot work there, and nothing was written, or something could not be written",
		exitCannot:  "it cannot do anything: it is not root, or the kernel refuses",
		exitRunning: "with --watch: another process watches the directory",
	},
	setUp: func(flags *pflag.FlagSet) action {
		place := placeFlags(flags)
		entry := entryFlags(flags)
		dryRun := flags.Bool("dry-run", false, "print what would change, and change nothing")
		watching := flags.Bool("watch", false, "go on, and put back what somebody undoes")
		return action{
			check: func([]string) error {
				if *dryRun && *watching {
					return errors.New("--dry-run and --watch: say one of them")
				}
				return entry.check(flags)
			},
			run: func() error {
				wanted, err := entry.wanted()
				if err != nil {
					return err
				}
				if *watching {
					return untilSignalled(func(ctx context.Context, broken func(error)) error {
						return watchInstall(ctx, *place, wanted, broken)
					})
				}
				if pid, running, err := installTask(*place).Running(); err == nil && running && !*dryRun {
					slog.Warn("egress-ip install --watch is running, and puts its own entry back if it was given one", "process", pid)
				}
				return tell(place.Install(wanted, *dryRun))
			},
		}
	},
}

// placeFlags are those of install and uninstall alike.
func placeFlags(flags *pflag.FlagSet) *install.Place {
	place := &install.Place{Versions: supported.SupportedVersions()}
	flags.StringVar(&place.BinDir, "bin-dir", "/opt/cni/bin", "the `directory` of CNI plugins")
	flags.StringVar(&place.ConfDir, "conf-dir", "/etc/cni/net.d", "the `directory` of network configurations")
	flags.StringVar(&place.Conflist, "conflist", "", "the conflist, a `file`; without it the first one in --conf-dir, as runtimes choose")
	return place
}

func watchInstall(ctx context.Context, place install.Place, wanted install.Wanted, broken func(error)) error {
	release, err := installTask(place).Claim()
	if err != nil {
		return cannot(err)
	}
	defer release()
	manager, err := watch.Systemd()
	if err != nil {
		return cannot(err)
	}
	return place.Watch(ctx, wanted, manager, broken)
}

// installTask is what one process at a time does.
func installTask(place install.Place) watch.Task {
	path := place.ConfDir
	if absolute, err := filepath.Abs(path); err == nil {
		path = absolute
	}
	return watch.Install(path)
}

// tell prints what was done, or would be, and what a person is to know of a plan.
func tell(plan install.Plan, lines []string, err error) error {
	for _, line := range lines {
		fmt.Println(line)
	}
	if err != nil {
		return err
	}
	for _, line := range plan.Notes {
		fmt.Println(line)
	}
	for _, line := range plan.Warnings {
		slog.Warn(line)
	}
	if string(plan.Entry) == conflist.ProbeOnly {
		fmt.Println("the entry has no links: egress-ip keeps the probe table alone, and lets no pod with an annotation start; egress-ip install -h says how to name links")
	}
	if len(lines) == 0 {
		fmt.Println("nothing to do")
	}
	return nil
}

var uninstallCommand = command{
	name: "uninstall", summary: "take the entry and the binary off this node", needs: netAdmin,
	help: `usage: egress-ip uninstall [--force] [--dry-run]

Takes egress-ip's entry out of the conflist, out of each in the directory if none is
named, then whatever it has on the node, as egress-ip cleanup does, and the binary
from the directory of CNI plugins.

Without the entry a runtime no longer tells egress-ip of pods that end, and another
pod that is given the address of one would leave by its link. So while annotated pods
are recorded it does nothing: drain the node or delete them first. With --force it
takes the entry out all the same; delete the pods at once, and then say
egress-ip cleanup --force. The binary stays for that.`,
	exits: map[int]string{exitFailed: "pods are recorded, egress-ip install --watch runs, or something could not be removed"},
	setUp: func(flags *pflag.FlagSet) action {
		place := placeFlags(flags)
		force := flags.Bool("force", false, "also while pods are recorded")
		dryRun := flags.Bool("dry-run", false, "print what would change, and change nothing")
		return action{run: func() error { return uninstall(*place, *force, *dryRun) }}
	},
}

func uninstall(place install.Place, force, dryRun bool) error {
	store, err := record.Open()
	if err != nil {
		return cannot(err)
	}
	pods, unknown, err := store.List()
	if err != nil {
		return cannot(err)
	}
	kernel := install.Kernel{Pods: len(pods) + unknown.Len()}
	if err := mayUninstall(place, kernel.Pods, force); err != nil {
		return err
	}
	exists, err := store.Exists()
	if err != nil {
		return cannot(err)
	}
	if exists {
		kernel.Clean = func() error {
			_, err := cleanNode(false)
			return err
		}
	}
	if err := tell(place.Uninstall(kernel, dryRun)); err != nil {
		return err
	}
	if kernel.Pods > 0 && !dryRun {
		fmt.Printf("%s recorded: delete them at once, before their addresses are given to others, and then: %s cleanup --force\n", annotatedPods(kernel.Pods), place.Binary())
	}
	return nil
}

// mayUninstall says why not.
func mayUninstall(place install.Place, pods int, force bool) error {
	if pods > 0 && !force {
		return fmt.Errorf("%s recorded, and egress-ip would not learn of their end, so another pod that is given their address would leave by their link; drain the node or delete them first, or say --force", annotatedPods(pods))
	}
	pid, running, err := installTask(place).Running()
	if err != nil {
		return err
	}
	if running {
		return fmt.Errorf("egress-ip install --watch is running (process %d), and would put the entry back; stop it first: the DaemonSet, or its unit", pid)
	}
	return nil
}

func annotatedPods(n int) string {
	if n == 1 {
		return "1 annotated pod is"
	}
	return fmt.Sprintf("%d annotated pods are", n)
}
