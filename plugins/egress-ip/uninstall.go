package main

import (
	"fmt"

	"github.com/egress-ip/egress-ip/pkg/install"
	"github.com/egress-ip/egress-ip/pkg/record"
	"github.com/spf13/pflag"
)

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
