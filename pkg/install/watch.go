package install

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/egress-ip/egress-ip/pkg/watch"
	"github.com/fsnotify/fsnotify"
)

// Watch is Install, now and whenever somebody has changed the list, put another one
// before it, removed the binary, or changed the file that has the entry, until ctx is
// done. While there is no list that can be read it waits for one; refused at its start it
// ends with the error, later it waits for a change. A binary that somebody replaces by
// another stays. Broken is called when changes are no longer told of.
func (p Place) Watch(ctx context.Context, w Wanted, manager watch.Manager, broken func(error)) error {
	_, done, err := p.Install(w, false)
	if errors.As(err, new(*notYetError)) {
		_, done, err = apply(false, func() (plan Plan, err error) { return plan, p.planBinary(&plan, false) })
	}
	for _, line := range done {
		slog.Info("done", "what", line)
	}
	if err != nil {
		return err
	}
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch directories: %w", err)
	}
	defer watcher.Close()
	k := &keeper{place: p, wanted: w, watcher: watcher, told: map[string]string{}}
	events := make(chan struct{}, 1)
	go k.forward(events, broken)
	watch.Run(ctx, events, k.look, manager, watch.Period)
	return nil
}

// keeper keeps what is installed.
type keeper struct {
	place   Place
	wanted  Wanted
	watcher *fsnotify.Watcher
	told    map[string]string // what was last logged, by message
}

// look installs what is missing. What only a change to the files can repair is no error, so that
// the next look comes with that.
func (k *keeper) look() (changed []string, err error) {
	if err := k.listen(); err != nil {
		return nil, err
	}
	if k.wanted.Read != nil {
		entry, err := k.wanted.Read()
		k.tell("the entry's file has no valid entry any more; the last one stays", err)
		if err == nil {
			k.wanted.Entry = entry
		}
	}
	plan, changed, err := apply(false, func() (Plan, error) { return k.place.plan(k.wanted, true) })
	isEarly, isRefused := errors.As(err, new(*notYetError)), errors.As(err, new(*refusedError))
	k.tell("waiting for the list that the entry belongs in", errorIf(isEarly, err))
	k.tell("cannot put the entry into the list; waiting for a change", errorIf(isRefused, err))
	if err != nil {
		// The binary does not wait for the list.
		_, more, errBinary := apply(false, func() (plan Plan, err error) { return plan, k.place.planBinary(&plan, true) })
		if isEarly || isRefused {
			err = nil
		}
		return append(changed, more...), errors.Join(err, errBinary)
	}
	k.wanted.Else = plan.Entry
	k.tell("this may not work as expected", errorIf(len(plan.Warnings) > 0, errors.New(strings.Join(plan.Warnings, "; "))))
	return changed, nil
}

func errorIf(is bool, err error) error {
	if !is {
		return nil
	}
	return err
}

// tell logs an error, once until there is another one or none.
func (k *keeper) tell(message string, err error) {
	text := fmt.Sprint(err)
	if err != nil && k.told[message] != text {
		slog.Warn(message, "reason", text)
	}
	k.told[message] = text
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
	if k.wanted.Read != nil {
		dirs = append(dirs, filepath.Dir(k.wanted.File))
	}
	for _, dir := range dirs {
		if err := k.watcher.Add(dir); err != nil {
			return fmt.Errorf("watch %s: %w", dir, err)
		}
	}
	return nil
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
			if strings.HasSuffix(e.Name, unfinished) {
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
