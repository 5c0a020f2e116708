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

const (
	// original is behind the name of the file as it was without our entry. No runtime takes it
	// for configuration; it reads .conf, .conflist and .json.
	original = ".before-egress-ip"

	// unfinished is behind the name of a file while it is written. The name is the same for
	// each try, so the next one removes what a process that was killed has left.
	unfinished = ".unfinished"
)

// errChanged says that somebody has written a file since it was read.
var errChanged = errors.New("it has just been written by somebody else")

// file is a file as it was read, or is to be.
type file struct {
	path     string // of the file itself, whatever name led to it
	text     []byte
	mode     fs.FileMode
	uid, gid int
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

// overwrite writes another text, unless the file is no longer as it was read.
func (f file) overwrite(text []byte) error {
	now, err := os.ReadFile(f.path)
	if err == nil && !bytes.Equal(now, f.text) || errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("write %s: %w", f.path, errChanged)
	}
	if err != nil {
		return err
	}
	f.text = text
	return f.write()
}

// write puts the file in the place of whatever has its path. Whoever reads that finds it
// whole, as before or as after, also when the node crashes. One process at a time may write.
func (f file) write() (err error) {
	next := f.path + unfinished
	// Not one that a link leads to elsewhere.
	if err := os.Remove(next); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	w, err := os.OpenFile(next, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(next) // else the next try does
		}
	}()
	_, err = w.Write(f.text)
	if err == nil && (f.uid != os.Geteuid() || f.gid != os.Getegid()) {
		err = w.Chown(f.uid, f.gid)
	}
	if err == nil {
		err = w.Chmod(f.mode) // whatever the umask is
	}
	if err == nil {
		err = w.Sync()
	}
	if err := errors.Join(err, w.Close()); err != nil {
		return err
	}
	if err := os.Rename(next, f.path); err != nil {
		return err
	}
	directory, err := os.Open(filepath.Dir(f.path))
	if err != nil {
		return err
	}
	defer directory.Close()
	// A file system that cannot do that for directories says EINVAL.
	if err := directory.Sync(); err != nil && !errors.Is(err, unix.EINVAL) {
		return err
	}
	return nil
}
