package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// recordFolder is where egress-ip keeps what is attached.
const recordFolder = "/run/egress-ip"

// insideKey is set in the environment of a process that has mounts of its own.
const insideKey = "EGRESS_IP_BENCH_INSIDE"

func isInside() bool { return os.Getenv(insideKey) != "" }

// inside runs the benchmark again, in a mount namespace of its own with the record
// on a tmpfs, as /run is on a node, and returns its exit status.
func inside() int {
	if err := os.Mkdir(recordFolder, 0o755); err == nil {
		defer func() { _ = os.Remove(recordFolder) }() // fails if others have put something there
	}
	// The shell's words are fixed, and the benchmark's own come as arguments.
	cmd := exec.Command("/bin/sh", append([]string{
		"-c", `mount -t tmpfs tmpfs "$0" && exec "$@"`, recordFolder, "/proc/" + fmt.Sprint(os.Getpid()) + "/exe",
	}, os.Args[1:]...)...)
	cmd.Env = append(os.Environ(), insideKey+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	// The standard library makes the new namespace's mounts private.
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
	err := cmd.Start()
	if err == nil {
		// The child cleans up; this one outlives it.
		signals := make(chan os.Signal, 1)
		signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
		go func() {
			for s := range signals {
				_ = cmd.Process.Signal(s) // it has ended if that fails
			}
		}()
		err = cmd.Wait()
	}
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return exit.ExitCode()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench: a mount namespace:", err)
		return 1
	}
	return 0
}
