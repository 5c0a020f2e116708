// Command machine is the first process of a node that is a machine of its own as far as
// a container runtime can tell: it starts in new mount and PID namespaces, and makes the
// folders in them that runtimes, CNI and egress-ip write to by fixed names its own.
//
//	machine LIB CGROUP
//
// LIB is the folder that is the node's /var/lib. CGROUP is the name of the cgroups, at
// the top of each hierarchy, below which the node's pods are. It prints "up\n" when other
// processes may be put into its namespaces, with nsenter. When its standard input ends,
// because somebody closes it or is no more, it kills every process of the node and
// removes its cgroups; with the last process the kernel takes away all mounts, among them
// those that hold the pods' network namespaces.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "machine:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 2 || os.Getpid() != 1 {
		return errors.New("usage: machine LIB CGROUP, as the first process of new mount and PID namespaces")
	}
	if err := mountAll(args[0]); err != nil {
		return err
	}
	children := make(chan os.Signal, 1)
	signal.Notify(children, unix.SIGCHLD)
	go func() {
		for range children {
			reap()
		}
	}()
	fmt.Println("up")
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		return err
	}
	killAll()
	return removeCgroups(args[1])
}

// reap waits for every child that has ended; the runtime's shims and what they leave
// become children of the first process.
func reap() {
	for {
		pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
		if err != unix.EINTR && (err != nil || pid <= 0) {
			return
		}
	}
}

// killAll returns when there is no other process in the namespace.
func killAll() {
	for unix.Kill(-1, unix.SIGKILL) == nil {
		reap()
		time.Sleep(time.Millisecond)
	}
}
