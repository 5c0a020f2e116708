package install

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/egress-ip/egress-ip/pkg/atomicfile"
	"github.com/egress-ip/egress-ip/pkg/conflist"
)

// self is the running binary, also when it has been removed or replaced.
const self = "/proc/self/exe"

// Binary is the path of the binary in the directory of plugins.
func (p Place) Binary() string { return filepath.Join(p.BinDir, conflist.Type) }

// planBinary adds the copy of the running binary, if the directory has another or none;
// with restore only if it has none that can be run, for it may be a newer one.
func (p Place) planBinary(plan *Plan, restore bool) error {
	info, err := os.Stat(p.Binary())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err == nil && info.Mode().Perm()&0o111 == 0o111 && info.Size() > 0 {
		if restore {
			return nil
		}
		running, err := os.ReadFile(self)
		if err != nil {
			return err
		}
		there, err := os.ReadFile(p.Binary())
		if err != nil {
			return err
		}
		if bytes.Equal(running, there) {
			plan.Notes = append(plan.Notes, p.Binary()+" is this version already")
			return nil
		}
	}
	plan.add("copied egress-ip to "+p.Binary(), "", p.copyBinary)
	return nil
}

func (p Place) copyBinary() error {
	running, err := os.ReadFile(self)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(p.BinDir, 0o755); err != nil {
		return err
	}
	return atomicfile.Write(p.Binary(), running, atomicfile.Attributes{Mode: 0o755, Synced: true})
}
