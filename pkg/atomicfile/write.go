// Package atomicfile replaces files in one step.
package atomicfile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Unfinished is behind the name of a file while it is written. The name is the same for
// each try, so the next one removes what a process that was killed has left.
const Unfinished = ".unfinished"

// Attributes are what a file has besides its text.
type Attributes struct {
	Mode     fs.FileMode
	UID, GID int
	// Synced: it is on the disk before anybody reads it. That may take long on a busy node.
	Synced bool
}

// Write puts a file with this text in the place of whatever has its path. Whoever reads
// that finds it whole, as before or as after. One process at a time may write a file.
func Write(path string, text []byte, a Attributes) (err error) {
	next := path + Unfinished
	// Not one that a link leads to elsewhere.
	if err := os.Remove(next); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(next, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(next) // else the next try does
		}
	}()
	_, err = f.Write(text)
	if err == nil && (a.UID != os.Geteuid() || a.GID != os.Getegid()) {
		err = f.Chown(a.UID, a.GID)
	}
	if err == nil {
		err = f.Chmod(a.Mode) // whatever the umask is
	}
	if err == nil && a.Synced {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(next, path); err != nil || !a.Synced {
		return err
	}
	return syncDirectory(filepath.Dir(path))
}

// syncDirectory makes sure that the names in a directory outlive a crash.
func syncDirectory(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	// A file system that cannot do that for directories says EINVAL.
	if err := d.Sync(); err != nil && !errors.Is(err, unix.EINVAL) {
		return err
	}
	return nil
}
