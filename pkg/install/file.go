package install

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/egress-ip/egress-ip/pkg/atomicfile"
)

// original is behind the name of the file as it was without our entry. No runtime takes it
// for configuration; it reads .conf, .conflist and .json.
const original = ".before-egress-ip"

// errChanged says that somebody has written a file since it was read.
var errChanged = errors.New("it has just been written by somebody else")

// file is a file as it was read.
type file struct {
	path       string // of the file itself, whatever name led to it
	text       []byte
	attributes atomicfile.Attributes
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
	return file{target, text, atomicfile.Attributes{Mode: info.Mode().Perm(), UID: int(owner.Uid), GID: int(owner.Gid), Synced: true}}, nil
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
	return atomicfile.Write(f.path, text, f.attributes)
}
