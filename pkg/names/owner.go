package names

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
)

// mayWrite reports whether the file is about the tables of the calling thread's
// network namespace.
//
// Tables belong to a network namespace, /etc to a mount namespace. A machine may
// have many of the former that all see one /etc, each with an egress-ip at work:
// in tests, dozens of nodes at once, which would overwrite each other's names and
// the machine's. So the file is the machine's, whose network namespace is the one
// of process 1. Another namespace has it only where somebody has given it an /etc
// of its own: `ip netns exec NAME` does where there is /etc/netns/NAME/iproute2,
// and so does a mount over the folder after `unshare --mount`. Such a folder is
// not the one that process 1 sees. Where process 1 does not let us look, as it may
// in a container, nobody can tell, and the file is left alone.
func mayWrite(directory string) bool {
	machine, err := sameFile("/proc/thread-self/ns/net", "/proc/1/ns/net")
	if err != nil {
		slog.Debug("routing tables stay without names: whose /etc this is cannot be told", "error", err)
		return false
	}
	if machine {
		return true
	}
	shared, err := sameFile(directory, "/proc/1/root"+directory)
	if errors.Is(err, fs.ErrNotExist) {
		return true // at least one of them has none; if it is ours, write says so
	}
	return err == nil && !shared
}

// sameFile reports whether two paths lead to the same file.
func sameFile(a, b string) (bool, error) {
	first, err := os.Stat(a)
	if err != nil {
		return false, err
	}
	second, err := os.Stat(b)
	if err != nil {
		return false, err
	}
	return os.SameFile(first, second), nil
}
