// Package names gives the routing tables of egress-ip names that iproute2 shows
// and takes: `lookup egress-enp7s0`, `ip route show table egress-enp7s0`. They are in a
// file of our own:
//
//	# Written by egress-ip for its links; do not edit.
//	1134 egress-enp7s0
//
// Names are a courtesy to people: where the file cannot be written nothing else
// changes. It outlives a reboot; the next call corrects it.
package names

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"math"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	directory = "/etc/iproute2/rt_tables.d"
	file      = directory + "/egress-ip.conf"

	header = "# Written by egress-ip for its links; do not edit.\n"
)

// Set makes the file name these tables, by their links, and no others: {1134: "enp7s0"}.
// Without any, the file is removed. Where there is no directory for it, or one that
// cannot be written to, or that other network namespaces use too, nothing happens, and
// that is no error. Callers hold record.Lock.
func Set(tables map[uint32]string) error {
	if !Stale(tables) {
		return nil
	}
	var err error
	if want := content(tables); want == "" {
		err = os.Remove(file)
	} else if err = os.WriteFile(file, []byte(want), 0o644); err == nil {
		err = os.Chmod(file, 0o644) // whatever the umask is
	}
	if err != nil {
		return fmt.Errorf("write the file of table names: %w", err)
	}
	return nil
}

// Stale reports whether Set would write. It needs no lock.
func Stale(tables map[uint32]string) bool {
	have, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		slog.Debug("routing tables stay without names", "error", err)
		return false
	}
	return string(have) != content(tables) && unix.Access(directory, unix.W_OK) == nil && isOurs()
}

// content is the text of the file, empty if there is to be none. Of two tables of one link's
// name, which a link that was deleted and made again leaves for a while, the newer has it.
// What iproute2 does not read as a number and a word is left out: it would ignore what follows, too.
func content(tables map[uint32]string) string {
	names := map[string]uint32{}
	for _, id := range slices.Sorted(maps.Keys(tables)) {
		link := tables[id]
		if id <= math.MaxInt32 && link != "" && !strings.ContainsFunc(link, func(c rune) bool { return c <= ' ' || c == 0x7f }) {
			names[link] = id
		}
	}
	if len(names) == 0 {
		return ""
	}
	text := []byte(header)
	for _, link := range slices.SortedFunc(maps.Keys(names), func(a, b string) int { return int(names[a]) - int(names[b]) }) {
		text = fmt.Appendf(text, "%d egress-%s\n", names[link], link)
	}
	return string(text)
}

// isOurs reports whether the file is about the tables of the calling thread's network namespace. A
// machine may have many that all see one /etc. It is that of process 1, or one with an /etc of
// its own, as `ip netns exec NAME` makes where there is /etc/netns/NAME/iproute2. Where process 1
// does not let us look, as it may in a container, what somebody has mounted is such a one.
func isOurs() bool {
	machine, err := isSame("/proc/thread-self/ns/net", "/proc/1/ns/net")
	if err != nil {
		own, errOwn := mountOf(directory)
		root, errRoot := mountOf("/")
		return errOwn == nil && errRoot == nil && own != root
	}
	shared, err := isSame(directory, "/proc/1/root"+directory)
	return machine || err == nil && !shared || errors.Is(err, fs.ErrNotExist)
}

// mountOf returns the number of the mount that has a file.
func mountOf(path string) (uint64, error) {
	var s unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, 0, unix.STATX_MNT_ID, &s)
	return s.Mnt_id, err
}

// isSame reports whether two paths lead to the same file.
func isSame(a, b string) (bool, error) {
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
