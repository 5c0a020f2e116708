package main

import (
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// onOneCore runs f on a thread of its own that never leaves the core, the last
// one that the process may use: the first takes most interrupts.
func onOneCore(f func() error) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // for ever: the thread ends with the goroutine
		if err := pin(); err != nil {
			result <- err
			return
		}
		result <- f()
	}()
	return <-result
}

func pin() error {
	var may, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &may); err != nil {
		return fmt.Errorf("which cores may be used: %w", err)
	}
	core := 0
	for seen := 0; seen < may.Count(); core++ {
		if may.IsSet(core) {
			seen++
		}
	}
	one.Set(core - 1)
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		return fmt.Errorf("stay on core %d: %w", core-1, err)
	}
	return nil
}

// undisturbed runs f, a few milliseconds, before every other task of the core.
// Where the kernel allows no real-time tasks it runs f as it is; then the median
// has to do.
func undisturbed(f func() error) error {
	if err := unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: 1}, 0); err == nil {
		defer func() {
			_ = unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_NORMAL}, 0)
		}()
	}
	return f()
}
