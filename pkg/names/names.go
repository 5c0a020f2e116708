package names

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/egress-ip/egress-ip/pkg/atomicfile"
	"golang.org/x/sys/unix"
)

const (
	directory  = "rt_tables.d"
	fileName   = "egress-ip.conf"
	unfinished = fileName + atomicfile.Unfinished // iproute2 reads only what ends in .conf

	header = "# Written by egress-ip for its links; do not edit.\n"
	prefix = "egress-"
)

// folders are where iproute2 looks for names: in the file rt_tables and in
// rt_tables.d/*.conf of each. The first is the administrator's and has our file.
type folders []string

// Which of the distribution's folders it is depends on iproute2's version and build.
var system = folders{"/etc/iproute2", "/usr/share/iproute2", "/usr/lib/iproute2"}

// Set makes the file name these tables, and no others: number to link name,
// {1134: "enp7s0"}. Without any, the file is removed. It reports whether the file
// has changed.
//
// Left out are tables that iproute2 could not show by our name, or that somebody
// else has named; of two tables with the same link name, which a link that was
// removed and made again leaves for a while, the one with the lower number.
//
// Where the file is not this call's to write (see [mayWrite]), or there is no
// folder for it, or one that cannot be written to, nothing happens, and that is no
// error. Callers hold record.Lock.
func Set(tables map[uint32]string) (changed bool, err error) {
	right, err := system.hold(tables)
	if err == nil && !right && mayWrite(system.directory()) {
		changed, err = system.write(tables)
	}
	if outOfReach(err) {
		slog.Debug("routing tables stay without names", "error", err)
		return false, nil
	}
	return changed, err
}

// Stale reports whether Set would write. It needs no lock.
func Stale(tables map[uint32]string) bool {
	if right, err := system.hold(tables); err != nil || right || !mayWrite(system.directory()) ||
		unix.Access(system.directory(), unix.W_OK) != nil {
		return false
	}
	have, err := system.read()
	names := named(tables)
	system.dropTaken(names)
	return err == nil && have != content(names)
}

// outOfReach reports whether an error says that this machine has no such file, or
// does not let us write it.
func outOfReach(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EROFS) ||
		errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM)
}

func (f folders) directory() string { return filepath.Join(f[0], directory) }

// hold reports whether the file names these tables already, and nothing else is
// left to do. It is all that most calls cost, so it looks at no other file of
// names: a table that another one names counts as not held, and is for write.
func (f folders) hold(tables map[uint32]string) (bool, error) {
	have, err := f.read()
	if err != nil || have != content(named(tables)) {
		return false, err
	}
	_, err = os.Lstat(filepath.Join(f.directory(), unfinished))
	return errors.Is(err, fs.ErrNotExist), nil
}

// write brings the file up to date. It appears whole or not at all.
func (f folders) write(tables map[uint32]string) (changed bool, err error) {
	path := filepath.Join(f.directory(), fileName)
	if err := unix.Access(f.directory(), unix.W_OK); err != nil {
		return false, fmt.Errorf("write to %s: %w", f.directory(), err)
	}
	if err := os.Remove(path + atomicfile.Unfinished); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("remove an unfinished file of table names: %w", err)
	}
	have, err := f.read()
	if err != nil {
		return false, err
	}
	names := named(tables)
	f.dropTaken(names)
	want := content(names)
	if have == want {
		return false, nil
	}
	if want == "" {
		err = os.Remove(path)
	} else {
		err = atomicfile.Write(path, []byte(want), atomicfile.Attributes{Mode: 0o644})
	}
	if err != nil {
		return false, fmt.Errorf("write the file of table names: %w", err)
	}
	return true, nil
}

// read returns what the file has, "" if it does not exist.
func (f folders) read() (string, error) {
	have, err := os.ReadFile(filepath.Join(f.directory(), fileName))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("read the file of table names: %w", err)
	}
	return string(have), nil
}

// named gives tables their names.
func named(tables map[uint32]string) map[uint32]string {
	names := map[uint32]string{}
	taken := map[string]bool{}
	for _, id := range slices.Backward(slices.Sorted(maps.Keys(tables))) {
		if link := tables[id]; readable(id, link) && !taken[link] {
			names[id] = prefix + link
			taken[link] = true
		}
	}
	return names
}

// readable reports whether iproute2 (6.1 was tried) reads a line as it is meant. It
// reads the number as an int, and passes over negative ones; the name up to the
// next white space, in which # and every other byte is like a letter. A line that
// does not fit costs the rest of the file. It may have 510 bytes, of which a link
// name, having no white space either, fills 15.
func readable(id uint32, link string) bool {
	return id <= math.MaxInt32 && link != "" && len(link) < unix.IFNAMSIZ &&
		!strings.ContainsFunc(link, func(c rune) bool { return c <= ' ' || c == 0x7f })
}

// content is the text of the file, "" if it is not to be there.
func content(names map[uint32]string) string {
	if len(names) == 0 {
		return ""
	}
	text := []byte(header)
	for _, id := range slices.Sorted(maps.Keys(names)) {
		text = fmt.Appendf(text, "%d %s\n", id, names[id])
	}
	return string(text)
}
