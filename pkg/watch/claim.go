package watch

import (
	"errors"
	"fmt"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// socketName is the abstract unix socket of the one process that watches: the
// kernel has a set of them for each network namespace, and removes one when its
// process ends, however it ends. Nothing is ever sent by it.
const socketName = "@egress-ip/watch"

// RunningError says that somebody watches this network namespace already.
type RunningError struct{ PID int }

func (e *RunningError) Error() string {
	if e.PID == 0 {
		return "another process watches this network namespace already; it cannot be seen from this PID namespace: look for the node's egress-ip.service, and for the DaemonSet's pod"
	}
	return fmt.Sprintf("process %d watches this network namespace already; `systemctl status %d` on the node says whether it is egress-ip.service or the DaemonSet's pod", e.PID, e.PID)
}

// Claim makes this process the one that watches its network namespace, until
// release is called or it ends. Where another one does, the error is a RunningError.
func Claim() (release func(), err error) {
	const tries, pause = 10, 10 * time.Millisecond
	for range tries {
		listener, err := net.Listen("unix", socketName)
		if err == nil {
			go answer(listener)
			return func() { listener.Close() }, nil
		}
		if !errors.Is(err, unix.EADDRINUSE) {
			return nil, fmt.Errorf("open the abstract unix socket %s: %w", socketName, err)
		}
		pid, running, err := Running()
		if err != nil {
			return nil, err
		}
		if running {
			return nil, &RunningError{pid}
		}
		time.Sleep(pause) // it has just ended, or does not listen yet
	}
	return nil, fmt.Errorf("another process has the abstract unix socket %s, but does not listen on it; look for it with: ss -xlp", socketName)
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

// Running returns the process that watches the network namespace of the calling
// thread; 0 if it is in a PID namespace that cannot be seen from here.
func Running() (pid int, running bool, err error) {
	conn, err := net.Dial("unix", socketName)
	if errors.Is(err, unix.ECONNREFUSED) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, fmt.Errorf("connect to the abstract unix socket %s: %w", socketName, err)
	}
	defer conn.Close()
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0, false, fmt.Errorf("who listens on %s: %w", socketName, err)
	}
	var peer *unix.Ucred
	control := raw.Control(func(fd uintptr) { peer, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err := errors.Join(control, err); err != nil {
		return 0, false, fmt.Errorf("who listens on %s: %w", socketName, err)
	}
	return int(peer.Pid), true, nil
}
