package install

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/egress-ip/egress-ip/pkg/atomicfile"
	"github.com/egress-ip/egress-ip/pkg/watch"
	"github.com/fsnotify/fsnotify"
)

// Follow is a file that has the entry, and may be given another one.
type Follow struct {
	Path string
	Read func() ([]byte, error)
}

// Watch is Install, now and whenever somebody has changed the list, put another one
// before it, removed the binary, or changed the file that has the entry (nil: none
// has), until ctx is done. While there is no list that can be read it waits for one;
// refused at its start it ends with the error, later it waits for a change. A binary
// that somebody replaces by another stays. Broken is called when changes are no
// longer told of.
func (p Place) Watch(ctx context.Context, w Wanted, follow *Follow, manager watch.Manager, broken func(error)) error {
	var refusal *RefusedError
	if _, err := p.Plan(w); errors.As(err, &refusal) {
		return err
	}
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch directories: %w", err)
	}
	defer watcher.Close()
	k := &keeper{place: p, wanted: w, follow: follow, watcher: watcher, told: map[string]string{}}
	events := make(chan struct{}, 1)
	go k.forward(events, broken)
	changed, err := k.look()
	if err != nil {
		return err
	}
	k.begun = true
	for _, line := range changed {
		slog.Info("done", "what", line)
	}
	watch.Run(ctx, events, k.keep, manager, watch.Period)
	return nil
}

// keeper keeps what is installed.
type keeper struct {
	place   Place
	wanted  Wanted
	follow  *Follow
	watcher *fsnotify.Watcher
	begun   bool              // it has looked once
	told    map[string]string // what was last logged, of each kind
}

// keep is look for an installation that has begun: whatever only a change to the
// files can repair is no error, so that the next look comes with that.
func (k *keeper) keep() (changed []string, err error) {
	changed, err = k.look()
	var refusal *RefusedError
	if errors.As(err, &refusal) {
		k.tell("refused", "cannot put the entry into the list; waiting for a change", err)
		return changed, nil
	}
	if err == nil {
		k.tell("refused", "", nil)
	}
	return changed, err
}

// look installs what is missing.
func (k *keeper) look() (changed []string, err error) {
	if err := k.listen(); err != nil {
		return nil, err
	}
	k.reread()
	plan, changed, err := apply(func() (Plan, error) { return k.place.plan(k.wanted, k.begun) })
	var early *NotYetError
	switch {
	case errors.As(err, &early):
		k.tell("early", "waiting for the list that the entry belongs in", err)
		_, changed, err = apply(k.binaryAlone)
		return changed, err
	case err != nil && k.begun:
		// The binary does not wait for the list.
		_, more, _ := apply(k.binaryAlone)
		return append(changed, more...), err
	case err != nil:
		return changed, err
	}
	k.tell("early", "", nil)
	k.wanted.Else = plan.Entry
	var warned error
	if len(plan.Warnings) > 0 {
		warned = errors.New(strings.Join(plan.Warnings, "; "))
	}
	k.tell("warnings", "this may not work as expected", warned)
	return changed, nil
}

func (k *keeper) binaryAlone() (plan Plan, err error) {
	return plan, k.place.planBinary(&plan, k.begun)
}

// listen makes sure that changes are told of, also in directories that have been made
// again, and in the one that a symbolic link leads to.
func (k *keeper) listen() error {
	dirs := []string{k.place.BinDir, k.place.ConfDir}
	if k.place.Conflist != "" {
		dirs[1] = filepath.Dir(k.place.Conflist)
	}
	for _, dir := range dirs {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if path, err := k.place.file(); err == nil {
		if target, err := filepath.EvalSymlinks(path); err == nil {
			dirs = append(dirs, filepath.Dir(target))
		}
	}
	if k.follow != nil {
		dirs = append(dirs, filepath.Dir(k.follow.Path))
	}
	for _, dir := range dirs {
		if err := k.watcher.Add(dir); err != nil {
			return fmt.Errorf("watch %s: %w", dir, err)
		}
	}
	return nil
}

// reread takes the entry of the file that has it; the last one stays while that
// file has none that is valid.
func (k *keeper) reread() {
	if k.follow == nil {
		return
	}
	entry, err := k.follow.Read()
	k.tell("entry", "the entry's file has no valid entry any more; the last one stays", err)
	if err == nil {
		k.wanted.Entry = entry
	}
}

// tell logs an error, once until there is another one or none.
func (k *keeper) tell(kind, message string, err error) {
	text := fmt.Sprint(err)
	if err != nil && k.told[kind] != text {
		slog.Warn(message, "reason", text)
	}
	k.told[kind] = text
}

// forward makes one event of many, and leaves out the files that an installation
// writes before they have their name.
func (k *keeper) forward(events chan<- struct{}, broken func(error)) {
	for {
		select {
		case e, ok := <-k.watcher.Events:
			if !ok {
				return
			}
			if strings.HasSuffix(e.Name, atomicfile.Unfinished) {
				continue
			}
		case err, ok := <-k.watcher.Errors:
			if !ok {
				return
			}
			if !errors.Is(err, fsnotify.ErrEventOverflow) {
				broken(fmt.Errorf("watch directories: %w", err))
				return
			}
		}
		select {
		case events <- struct{}{}:
		default:
		}
	}
}
