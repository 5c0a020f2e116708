package record

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Lock waits until no other process works on this network namespace, and keeps
// others out until unlock is called or the process ends.
//
// What is locked is the namespace itself (its file in /proc), not a file in /run:
// so there is exactly one lock a namespace, also for a container that sees
// another /run, and nothing to leave behind.
func Lock() (unlock func(), err error) {
	fd, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open the network namespace: %w", err)
	}
	for {
		err = unix.Flock(fd, unix.LOCK_EX)
		if err != unix.EINTR {
			break
		}
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("lock the network namespace: %w", err)
	}
	return func() { unix.Close(fd) }, nil
}

// cookie is the kernel's number of the calling thread's network namespace, which
// it gives to no other until the next boot (Linux 5.14).
func cookie() (uint64, error) {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("open a socket: %w", err)
	}
	defer unix.Close(s)
	c, err := unix.GetsockoptUint64(s, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err != nil {
		return 0, fmt.Errorf("read the network namespace's cookie: %w", err)
	}
	return c, nil
}
