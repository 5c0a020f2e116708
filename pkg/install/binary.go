package install

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/egress-ip/egress-ip/pkg/conflist"
)

// self is the running binary, also when it has been removed or replaced.
const self = "/proc/self/exe"

// Binary is the path of the binary in the folder of plugins.
func (p Place) Binary() string { return filepath.Join(p.BinDir, conflist.Type) }

// planBinary adds the copy of the running binary, if the folder has another or none;
// with restore only if it has none that can be run, for it may be a newer one.
func (p Place) planBinary(plan *Plan, restore bool) error {
	info, err := os.Stat(p.Binary())
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	case info.IsDir():
		return fmt.Errorf("%s is a folder; the binary is to be there", p.Binary())
	default:
		runs := info.Mode().Perm()&0o111 == 0o111 && info.Size() > 0
		if restore && runs {
			return nil
		}
		same, err := sameContent(p.Binary())
		if err != nil {
			return err
		}
		if same && runs {
			plan.Notes = append(plan.Notes, p.Binary()+" is this version already")
			return nil
		}
	}
	plan.add("copied egress-ip to "+p.Binary(), "", p.copyBinary)
	return nil
}

func (p Place) copyBinary() error {
	running, err := os.Open(self)
	if err != nil {
		return err
	}
	defer running.Close()
	if err := os.MkdirAll(p.BinDir, 0o755); err != nil {
		return err
	}
	return replace(p.Binary(), 0o755, os.Geteuid(), os.Getegid(), running)
}

// sameContent reports whether a file is a copy of the running binary.
func sameContent(path string) (bool, error) {
	a, err := os.Open(self)
	if err != nil {
		return false, err
	}
	defer a.Close()
	b, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer b.Close()
	return sameBytes(a, b)
}

// sameBytes compares what two readers give.
func sameBytes(a, b io.Reader) (bool, error) {
	x, y := make([]byte, 1<<16), make([]byte, 1<<16)
	for {
		n, errA := io.ReadFull(a, x)
		m, errB := io.ReadFull(b, y)
		if !bytes.Equal(x[:n], y[:m]) {
			return false, nil
		}
		if err := errors.Join(atEnd(errA), atEnd(errB)); err != nil {
			return false, err
		}
		if errA != nil || errB != nil {
			return true, nil
		}
	}
}

func atEnd(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil
	}
	return err
}
