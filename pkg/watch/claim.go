package watch

import (
	"errors"
	"fmt"
	"hash/fnv"
	"time"

	"github.com/egress-ip/egress-ip/pkg/lock"
	"github.com/egress-ip/egress-ip/pkg/record"
)

// Task is something that one process at a time does in a network namespace: it has a lock
// for as long as it runs.
type Task struct{ name, watches string }

// Resync is the task of `egress-ip resync --watch`.
var Resync = Task{"watch", "this network namespace"}

// Install is the task of `egress-ip install --watch` for a directory of configurations.
func Install(path string) Task {
	name := fnv.New64a()
	name.Write([]byte(path)) // which a file's name cannot hold
	return Task{fmt.Sprintf("install-%x", name.Sum64()), path}
}

// RunningError says that somebody watches already.
type RunningError struct {
	PID     int    // 0: it cannot be seen from this PID namespace
	Watches string // "this network namespace", or a path
}

func (e *RunningError) Error() string {
	if e.PID == 0 {
		return fmt.Sprintf("another process watches %s already; it cannot be seen from this PID namespace: look for the node's egress-ip.service, and for the DaemonSet's pod", e.Watches)
	}
	return fmt.Sprintf("process %d watches %s already; `systemctl status %d` on the node says whether it is egress-ip.service or the DaemonSet's pod", e.PID, e.Watches, e.PID)
}

// Claim makes this process the one that does the task in its network namespace, until
// release is called or it ends. Where another one does, the error is a RunningError.
func (t Task) Claim() (release func(), err error) {
	const ending = 100 * time.Millisecond // for one that has just been told to end
	file, err := record.LockOf(t.name)
	if err != nil {
		return nil, err
	}
	release, err = file.Take(ending)
	if held := (*lock.HeldError)(nil); errors.As(err, &held) {
		return nil, &RunningError{held.Holder.PID, t.watches}
	}
	return release, err
}

// Running returns the process that does the task in the network namespace of the
// calling thread; 0 if it is in a PID namespace that cannot be seen from here.
func (t Task) Running() (pid int, running bool, err error) {
	file, err := record.LockOf(t.name)
	if err != nil {
		return 0, false, err
	}
	holder, running, err := file.Holder()
	return holder.PID, running, err
}
