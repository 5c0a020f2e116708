package install

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/egress-ip/egress-ip/pkg/conflist"
)

// Kernel is what egress-ip has in the kernel of the node, as it is recorded.
type Kernel struct {
	Pods   func() (int, error)  // for how many it has anything
	Exists func() (bool, error) // whether it has anything
	Clean  func() error         // takes all of it away; while it is for pods that is an error
}

// PlanUninstall says what Uninstall would do.
func (p Place) PlanUninstall(k Kernel) (Plan, error) {
	paths := []string{p.Conflist}
	all, err := files(p.ConfDir)
	if err != nil {
		return Plan{}, err
	}
	if p.Conflist == "" {
		paths = all
	}
	var plan Plan
	for _, path := range paths {
		if err := p.planRemoval(&plan, path); err != nil {
			return Plan{}, err
		}
	}
	if len(plan.Steps) == 0 {
		plan.Notes = append(plan.Notes, "no list has an entry of egress-ip's")
	}
	return plan, p.planBinaryRemoval(&plan, k, paths, all)
}

// Uninstall takes the entry out of the list, or of every list in the folder if none
// is named. Then it removes what stands in the kernel and the binary, unless a pod is
// recorded or a list that stays as it is names the binary.
func (p Place) Uninstall(k Kernel) (Plan, []string, error) {
	return apply(func() (Plan, error) { return p.PlanUninstall(k) })
}

// planRemoval adds the removal of the entry from one file, if it has any, and then of the
// copy that the installation has made. As long as the list says the same as that copy but for
// the entry, it becomes the copy again. What the next uninstall has to find goes last: where
// this one does not come that far, the copy exists and says the same as the list.
func (p Place) planRemoval(plan *Plan, path string) error {
	f, err := readFile(path)
	if errors.Is(err, fs.ErrNotExist) && p.Conflist == "" {
		return nil // a symbolic link that leads nowhere, or it is just being replaced
	}
	if err != nil {
		return err
	}
	if filepath.Ext(path) != ".conflist" {
		return nil
	}
	text, has, err := without(f)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	aside := f.path + original
	was, err := os.ReadFile(aside)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	same := err == nil && conflist.Same(was, text)
	if same {
		text = was
	}
	if has {
		plan.add("removed the entry from "+path, diff(path, f.text, text), func() error { return f.overwrite(text) })
	}
	switch {
	case same:
		plan.add("removed "+aside+", which said the same", "", func() error { return os.Remove(aside) })
	case err == nil:
		plan.Notes = append(plan.Notes, aside+" stays; it differs from what the list now is")
	}
	return nil
}

// without returns a list's text without our entry, and whether it has one.
func without(f file) (text []byte, has bool, err error) {
	if !names(f.text) {
		return f.text, false, nil
	}
	list, err := conflist.Parse(f.text)
	if err != nil {
		return nil, false, fmt.Errorf("it names egress-ip, but cannot be read: %w", err)
	}
	if list.Entry() == nil {
		return f.text, false, nil
	}
	text, err = list.Without()
	return text, true, err
}

// planBinaryRemoval adds the removal of the binary, if nothing needs it any more, and
// before of all that it would take away in the kernel.
func (p Place) planBinaryRemoval(plan *Plan, k Kernel, edited, all []string) error {
	_, err := os.Lstat(p.Binary())
	gone := errors.Is(err, fs.ErrNotExist)
	if err != nil && !gone {
		return err
	}
	pods, err := k.Pods()
	if err != nil {
		return err
	}
	if pods > 0 {
		plan.Notes = append(plan.Notes, p.Binary()+" stays as long as pods are recorded")
		return nil
	}
	for _, path := range all {
		text, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue // a symbolic link that leads nowhere, or it is just being replaced
		}
		if err != nil {
			return err
		}
		if !names(text) {
			continue
		}
		changed, err := isOne(edited, path)
		if err != nil {
			return err
		}
		if !changed || filepath.Ext(path) != ".conflist" {
			plan.Notes = append(plan.Notes, fmt.Sprintf("%s stays: %s names it", p.Binary(), path))
			return nil
		}
	}
	exists, err := k.Exists()
	if err != nil {
		return err
	}
	if exists {
		plan.add("cleaned up what stood on the node, as egress-ip cleanup does", "", k.Clean)
	}
	if !gone {
		plan.add("removed "+p.Binary(), "", func() error { return os.Remove(p.Binary()) })
	}
	return nil
}

// names reports whether a configuration speaks of egress-ip, be it as a delegate.
func names(text []byte) bool { return bytes.Contains(text, []byte(`"`+conflist.Type+`"`)) }

// isOne reports whether a path is one of these, whatever it is written as.
func isOne(paths []string, path string) (bool, error) {
	file, err := os.Stat(path)
	if err != nil {
		return false, ignoreAbsent(err)
	}
	for _, p := range paths {
		other, err := os.Stat(p)
		if err == nil && os.SameFile(file, other) {
			return true, nil
		}
		if err := ignoreAbsent(err); err != nil {
			return false, err
		}
	}
	return false, nil
}

func ignoreAbsent(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
