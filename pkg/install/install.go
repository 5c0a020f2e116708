// Package install puts egress-ip on a node and takes it off: the binary into the
// directory where runtimes look for plugins, the entry into their configuration list.
// Every file is replaced in one step, so that whoever reads one at any time finds
// it whole, as before or as after. What a list looks like is package conflist's.
package install

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/aymanbagabas/go-udiff"
	"github.com/egress-ip/egress-ip/pkg/config"
	"github.com/egress-ip/egress-ip/pkg/conflist"
	"github.com/egress-ip/egress-ip/pkg/lock"
)

// Wanted is the entry that is to be in the list, as [conflist.Entry] returns it.
type Wanted struct {
	Entry []byte // nil: the one that is there
	Else  []byte // where there is none either

	// File has the entry and may be given another one, and Read reads it; nil: there is none.
	File string
	Read func() ([]byte, error)
}

// Install puts the binary and the entry in their places, the binary first; in a dry run it says
// what it would do. Where that cannot work nothing is written. It returns lines of what was
// done, also with an error.
func (p Place) Install(w Wanted, dryRun bool) (Plan, []string, error) {
	return apply(dryRun, func() (Plan, error) { return p.plan(w, false) })
}

// plan says what is to be done; with restore a binary that is there stays.
func (p Place) plan(w Wanted, restore bool) (plan Plan, err error) {
	s, err := p.read()
	if err != nil {
		return Plan{}, err
	}
	plan.Entry = w.Entry
	if plan.Entry == nil {
		plan.Entry = s.list.Entry()
		if _, err := config.ParseEntry(plan.Entry); plan.Entry != nil && err != nil {
			return Plan{}, refused("%s: the entry that is there: %w; correct it, or give another", s.name, err)
		}
	}
	if plan.Entry == nil {
		plan.Entry = w.Else
	}
	c, err := config.ParseEntry(plan.Entry)
	if err != nil {
		return Plan{}, err
	}
	beside, err := s.list.Beside(c)
	if err != nil {
		return Plan{}, refused("%s: %w", s.name, err)
	}
	unread, err := p.unread(s)
	if err != nil {
		return Plan{}, err
	}
	missing, err := missingLinks(c)
	if err != nil {
		return Plan{}, err
	}
	plan.Warnings = slices.Concat(s.list.Warnings(), unread, beside, missing)
	if config.MissesCapability(plan.Entry) {
		plan.Warnings = append(plan.Warnings, `the entry has links, but its "capabilities" lack "io.kubernetes.cri.pod-annotations": true, so no annotation arrives`)
	}
	if err := p.planBinary(&plan, restore); err != nil {
		return Plan{}, err
	}
	return plan, planEntry(&plan, s)
}

// planEntry adds the change of the list.
func planEntry(plan *Plan, s source) error {
	text, err := s.list.With(plan.Entry)
	if err != nil {
		return err
	}
	overwrite := func() error { return s.overwrite(text) }
	aside := s.file
	aside.path += original
	switch {
	case conflist.Same(text, s.text):
		plan.Notes = append(plan.Notes, s.name+" has the entry already")
	case s.list.Entry() != nil:
		plan.add("changed the entry in "+s.name, diff(s.name, s.text, text), overwrite)
	default:
		plan.add(fmt.Sprintf("put the entry into %s, behind %s; the file as it was is %s", s.name, s.list.Main().Type, aside.path), diff(s.name, s.text, text),
			func() error {
				if err := aside.write(); err != nil {
					return err
				}
				return overwrite()
			})
	}
	return nil
}

// Binary is the path of the binary in the directory of plugins.
func (p Place) Binary() string { return filepath.Join(p.BinDir, conflist.Type) }

// planBinary adds the copy of the running binary, if the directory has another or none;
// with restore only if it has none that can be run, for it may be a newer one.
func (p Place) planBinary(plan *Plan, restore bool) error {
	info, err := os.Stat(p.Binary())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	runs := err == nil && info.Mode().Perm()&0o111 == 0o111 && info.Size() > 0
	if runs && restore {
		return nil
	}
	running, err := os.ReadFile("/proc/self/exe") // also when it has been removed or replaced
	if err != nil {
		return err
	}
	if runs {
		there, err := os.ReadFile(p.Binary())
		if err != nil {
			return err
		}
		if bytes.Equal(running, there) {
			plan.Notes = append(plan.Notes, p.Binary()+" is this version already")
			return nil
		}
	}
	plan.add("copied egress-ip to "+p.Binary(), "", func() error {
		if err := os.MkdirAll(p.BinDir, 0o755); err != nil {
			return err
		}
		return file{path: p.Binary(), text: running, mode: 0o755}.write()
	})
	return nil
}

// missingLinks returns a line for each link of an entry that the node does not have.
func missingLinks(c config.Config) ([]string, error) {
	links, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("list the node's links: %w", err)
	}
	var names, lines []string
	for _, l := range links {
		names = append(names, l.Name)
	}
	missing := func(key, link string) {
		lines = append(lines, fmt.Sprintf("%s: this node has no link %s now; it has %s", key, link, strings.Join(names, ", ")))
	}
	for i, l := range c.Links {
		if !slices.ContainsFunc(names, l.Matches) {
			missing(fmt.Sprintf("links[%d].name", i), l.Pattern)
		}
	}
	for _, name := range c.Probe.Links { // sorted, so their index there is unknown
		if !slices.Contains(names, name) {
			missing("probeSNAT.links", name)
		}
	}
	return lines, nil
}

// Plan is what is to be done, in this order. Making one changes nothing.
type Plan struct {
	Entry    []byte   // which is to be there then
	Notes    []string // for a person to know; nothing is done about them
	Warnings []string // of what may not work as expected

	steps []step
}

// step is one change.
type step struct {
	done string // as it is told when it is done: "copied ..."
	diff string // of a text file, unified; empty for others
	do   func() error
}

func (p *Plan) add(done, diff string, do func() error) {
	p.steps = append(p.steps, step{done, diff, do})
}

func diff(path string, a, b []byte) string { return udiff.Unified(path, path, string(a), string(b)) }

// installing is the lock of all installations on the node, whichever directories they are
// for: these may have other paths in a container.
const installing = lock.File(lock.Root + "/install.lock")

// apply makes a plan and applies it, with other installations kept out; again if somebody
// else has written a file in between. In a dry run it says what it would do.
func apply(dryRun bool, plan func() (Plan, error)) (p Plan, lines []string, err error) {
	if dryRun {
		p, err = plan()
		for _, s := range p.steps {
			lines = append(lines, strings.TrimSuffix("would have "+s.done+"\n"+s.diff, "\n"))
		}
		return p, lines, err
	}
	unlock, err := installing.Take(lock.Patience)
	if err != nil {
		return Plan{}, nil, err
	}
	defer unlock()
	const tries = 5
	for range tries {
		if p, err = plan(); err != nil {
			return Plan{}, lines, err
		}
		for _, s := range p.steps {
			if err = s.do(); err != nil {
				break
			}
			lines = append(lines, s.done)
		}
		if !errors.Is(err, errChanged) {
			break
		}
	}
	return p, lines, err
}
