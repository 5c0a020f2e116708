package install

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/egress-ip/egress-ip/pkg/conflist"
)

// Kernel is what egress-ip has in the kernel of the node, as it is recorded.
type Kernel struct {
	Pods   func() (int, error) // for how many it has anything
	Stands func() bool         // whether it has anything
	Clean  func() error        // takes all of it away; while it is for pods that is an error
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
// recorded or a list that stays as it is names the binary. A list that an installation has made becomes what it was.
func (p Place) Uninstall(k Kernel) (Plan, []string, error) {
	return apply(func() (Plan, error) { return p.PlanUninstall(k) })
}

// planRemoval adds the removal of the entry from one file, if it has any.
func (p Place) planRemoval(plan *Plan, path string) error {
	f, err := readFile(path)
	if errors.Is(err, fs.ErrNotExist) && p.Conflist == "" {
		return nil // a symbolic link that leads nowhere, or it is just being replaced
	}
	if err != nil {
		return err
	}
	if !names(f.text) || filepath.Ext(path) != ".conflist" {
		return nil
	}
	list, err := conflist.Parse(f.text)
	if err != nil {
		return fmt.Errorf("%s speaks of egress-ip, but cannot be read: %w", path, err)
	}
	if !list.HasEntry() {
		return nil
	}
	text, err := list.Without()
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if conf, ok := convertedFrom(path, text); ok {
		plan.add(fmt.Sprintf("put %s back in the place of %s", conf, path), diff(path, conf, f.text, nil),
			func() error { return os.Rename(conf+original, conf) },
			func() error { return os.Remove(path) },
			func() error { return sync(filepath.Dir(path)) })
		return nil
	}
	aside := f.path + original
	plan.add("removed the entry from "+path, diff(path, path, f.text, text), func() error { return f.overwrite(text) })
	was, err := os.ReadFile(aside)
	switch {
	case err == nil && bytes.Equal(was, text):
		plan.add("removed "+aside+", which said the same", "", func() error { return os.Remove(aside) })
	case err == nil:
		plan.Notes = append(plan.Notes, aside+" stays; it differs from what the list now is")
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	return nil
}

// convertedFrom returns the path of the file of which an installation has made a list
// that now says this, without our entry.
func convertedFrom(path string, text []byte) (conf string, ok bool) {
	for _, ext := range []string{".conf", ".json"} {
		conf = strings.TrimSuffix(path, ".conflist") + ext
		was, err := os.ReadFile(conf + original)
		if err != nil {
			continue
		}
		if list, err := conflist.Convert(was); err == nil && bytes.Equal(list, text) {
			_, err := os.Lstat(conf)
			return conf, errors.Is(err, fs.ErrNotExist)
		}
	}
	return "", false
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
		if err == nil && names(text) && !(filepath.Ext(path) == ".conflist" && isOne(edited, path)) {
			plan.Notes = append(plan.Notes, fmt.Sprintf("%s stays: %s names it", p.Binary(), path))
			return nil
		}
	}
	if k.Stands() {
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
func isOne(paths []string, path string) bool {
	for _, p := range paths {
		a, errA := os.Stat(p)
		b, errB := os.Stat(path)
		if errA == nil && errB == nil && os.SameFile(a, b) {
			return true
		}
	}
	return false
}
