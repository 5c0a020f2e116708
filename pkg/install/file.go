package install

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// Names of files beside a runtime's that no runtime takes for configuration; it
// reads .conf, .conflist and .json.
const (
	unfinished = ".unfinished"       // while it is written; the same for each try, under the lock
	original   = ".before-egress-ip" // as it was without our entry
)

// errChanged says that somebody has written a file since it was read.
var errChanged = errors.New("it has just been written by somebody else")

// file is a file as it was read.
type file struct {
	path string // of the file itself, whatever name led to it
	text []byte
	mode fs.FileMode
	uid  int
	gid  int
}

// readFile follows symbolic links.
func readFile(path string) (file, error) {
	target, err := filepath.Abs(path)
	if err == nil {
		target, err = filepath.EvalSymlinks(target)
	}
	if err != nil {
		return file{}, fmt.Errorf("%s: %w", path, err)
	}
	text, err := os.ReadFile(target)
	if err != nil {
		return file{}, err
	}
	info, err := os.Stat(target)
	if err != nil {
		return file{}, err
	}
	owner := info.Sys().(*syscall.Stat_t)
	return file{target, text, info.Mode().Perm(), int(owner.Uid), int(owner.Gid)}, nil
}

// with returns the file at another path with another text; mode and owner stay.
func (f file) with(path string, text []byte) file {
	f.path, f.text = path, text
	return f
}

// write puts the file in the place of whatever has its path.
func (f file) write() error {
	return replace(f.path, f.text, f.mode, f.uid, f.gid)
}

// overwrite is write, unless the file is no longer as it was read.
func (f file) overwrite(text []byte) error {
	now, err := os.ReadFile(f.path)
	if err == nil && !bytes.Equal(now, f.text) || errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("write %s: %w", f.path, errChanged)
	}
	if err != nil {
		return err
	}
	return f.with(f.path, text).write()
}

// replace puts a file with this text in the place of whatever has its path, once it is
// whole and on the disk.
func replace(path string, text []byte, mode fs.FileMode, uid, gid int) (err error) {
	temporary := path + unfinished
	// Not one that a link leads to elsewhere.
	if err := os.Remove(temporary); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(temporary)
		}
	}()
	_, err = f.Write(text)
	if err == nil && (uid != os.Geteuid() || gid != os.Getegid()) {
		err = f.Chown(uid, gid)
	}
	if err == nil {
		err = f.Chmod(mode)
	}
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(temporary, path); err != nil {
		return err
	}
	return sync(filepath.Dir(path))
}

// sync makes sure that the names in a folder outlive a crash.
func sync(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	// A file system that cannot do that for folders says EINVAL.
	if err := d.Sync(); err != nil && !errors.Is(err, unix.EINVAL) {
		return err
	}
	return nil
}
