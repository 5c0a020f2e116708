package names

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"strings"
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
// in a container, a folder that somebody has mounted counts as such a one.
func mayWrite(directory string) bool {
	machine, err := sameFile("/proc/thread-self/ns/net", "/proc/1/ns/net")
	if err != nil {
		slog.Debug("process 1 does not let us look at its network namespace", "error", err)
		return isMounted(directory)
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

// isMounted reports whether a folder, or one that it is in, is a mount of its own,
// the root aside.
func isMounted(directory string) bool {
	mounts, err := os.ReadFile("/proc/thread-self/mountinfo")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(mounts)) {
		// 36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw: proc_pid_mountinfo(5)
		fields := strings.Fields(line)
		if len(fields) > 4 && fields[4] != "/" && strings.HasPrefix(directory+"/", fields[4]+"/") {
			return true
		}
	}
	return false
}
