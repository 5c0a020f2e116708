package watch

import (
	"errors"
	"fmt"
	"hash/fnv"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// Task is something that one process at a time does in a network namespace.
//
// The process has an abstract unix socket of its name: the kernel has a set of them
// for each network namespace, and removes one when its process ends, however it
// ends. Nothing is ever sent by it.
type Task struct{ socket, watches string }

// Resync is the task of `egress-ip resync --watch`.
var Resync = Task{"@egress-ip/watch", "this network namespace"}

// Install is the task of `egress-ip install --watch` for a folder of configurations.
func Install(path string) Task {
	name := fnv.New64a()
	name.Write([]byte(path)) // a socket's name is 107 bytes at the most, a path may be longer
	return Task{fmt.Sprintf("@egress-ip/install-%x", name.Sum64()), path}
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
	const tries, pause = 10, 10 * time.Millisecond
	for range tries {
		listener, err := net.Listen("unix", t.socket)
		if err == nil {
			go answer(listener)
			return func() { listener.Close() }, nil
		}
		if !errors.Is(err, unix.EADDRINUSE) {
			return nil, fmt.Errorf("open the abstract unix socket %s: %w", t.socket, err)
		}
		pid, running, err := t.Running()
		if err != nil {
			return nil, err
		}
		if running {
			return nil, &RunningError{pid, t.watches}
		}
		time.Sleep(pause) // it has just ended, or does not listen yet
	}
	return nil, fmt.Errorf("another process has the abstract unix socket %s, but does not listen on it; look for it with: ss -xlp", t.socket)
}

// answer takes connections, only so that there is always room for the next.
func answer(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		conn.Close()
	}
}

// Running returns the process that does the task in the network namespace of the
// calling thread; 0 if it is in a PID namespace that cannot be seen from here.
func (t Task) Running() (pid int, running bool, err error) {
	conn, err := net.Dial("unix", t.socket)
	if errors.Is(err, unix.ECONNREFUSED) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, fmt.Errorf("connect to the abstract unix socket %s: %w", t.socket, err)
	}
	defer conn.Close()
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0, false, fmt.Errorf("who listens on %s: %w", t.socket, err)
	}
	var peer *unix.Ucred
	control := raw.Control(func(fd uintptr) { peer, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err := errors.Join(control, err); err != nil {
		return 0, false, fmt.Errorf("who listens on %s: %w", t.socket, err)
	}
	return int(peer.Pid), true, nil
}
