package record

import (
	"fmt"

	"github.com/egress-ip/egress-ip/pkg/lock"
	"golang.org/x/sys/unix"
)

// Lock waits until no other process works on this network namespace, [lock.Patience] at
// the most, and keeps others out until unlock is called or the process ends. The file is
// beside the record and stays when that goes.
func (s Store) Lock() (unlock func(), err error) {
	return lock.File(s.dir + ".lock").Take(lock.Patience)
}

// LockOf returns the lock of a task, a word, of which there is one in each network
// namespace, in that of the calling thread.
func LockOf(task string) (lock.File, error) {
	s, err := Open()
	return lock.File(s.dir + "." + task + ".lock"), err
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
