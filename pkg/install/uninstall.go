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
	Pods  int          // for how many it has anything
	Clean func() error // removes all of it; while it is for pods that is an error. Nil: there is nothing
}

// Uninstall takes the entry out of the list, or of every list in the directory if none
// is named. Then it removes what is installed in the kernel and the binary, unless a pod is
// recorded or a list that stays as it is names the binary. In a dry run it says what it would do.
func (p Place) Uninstall(k Kernel, dryRun bool) (Plan, []string, error) {
	return apply(dryRun, func() (Plan, error) { return p.planUninstall(k) })
}

func (p Place) planUninstall(k Kernel) (plan Plan, err error) {
	all, err := files(p.ConfDir)
	if err != nil {
		return Plan{}, err
	}
	lists := all
	if p.Conflist != "" {
		lists = []string{p.Conflist}
	}
	cleared := map[string]bool{} // lists that will have no entry
	for _, path := range lists {
		if filepath.Ext(path) != ".conflist" {
			continue
		}
		f, err := readFile(path)
		if errors.Is(err, fs.ErrNotExist) && p.Conflist == "" {
			continue // a symbolic link that leads nowhere, or it is just being replaced
		}
		if err == nil {
			err = planRemoval(&plan, path, f)
		}
		if err != nil {
			return Plan{}, err
		}
		cleared[f.path] = true
	}
	if len(plan.steps) == 0 {
		plan.Notes = append(plan.Notes, "no list has an entry of egress-ip's")
	}
	for _, path := range all {
		f, err := readFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return Plan{}, err
		}
		if mentions(f.text) && !cleared[f.path] {
			plan.Notes = append(plan.Notes, fmt.Sprintf("%s stays: %s names it", p.Binary(), path))
			return plan, nil
		}
	}
	if k.Pods > 0 {
		plan.Notes = append(plan.Notes, p.Binary()+" stays as long as pods are recorded")
		return plan, nil
	}
	if k.Clean != nil {
		plan.add("cleaned up the node, as egress-ip cleanup does", "", k.Clean)
	}
	if _, err := os.Lstat(p.Binary()); !errors.Is(err, fs.ErrNotExist) {
		plan.add("removed "+p.Binary(), "", func() error { return os.Remove(p.Binary()) })
	}
	return plan, nil
}

// planRemoval adds the removal of the entry from one file, if it has any, and then of the
// copy that the installation has made. As long as the list says the same as that copy but for
// the entry, it becomes the copy again. What the next uninstall has to find goes last: where
// this one does not come that far, the copy exists and says the same as the list.
func planRemoval(plan *Plan, path string, f file) error {
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
	if !mentions(f.text) {
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

// mentions reports whether a configuration speaks of egress-ip, be it as a delegate.
func mentions(text []byte) bool { return bytes.Contains(text, []byte(`"`+conflist.Type+`"`)) }
