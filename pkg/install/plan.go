package install

import (
	"errors"
	"strings"

	"github.com/aymanbagabas/go-udiff"
	"github.com/egress-ip/egress-ip/pkg/lock"
)

// Plan is what is to be done, in this order. Making one changes nothing.
type Plan struct {
	Steps []Step
	Entry []byte // which is to be there then
	// Notes are for a person to know; nothing is done about them.
	Notes []string
	// Warnings are of what may not work as expected.
	Warnings []string
}

// Step is one change.
type Step struct {
	Done string // as it is told when it is done: "copied ..."
	Diff string // of a text file, unified; empty for others
	do   func() error
}

// Apply does the steps, and returns those that are done, also with an error.
func (p Plan) Apply() (done []string, err error) {
	for _, s := range p.Steps {
		if err := s.do(); err != nil {
			return done, err
		}
		done = append(done, s.Done)
	}
	return done, nil
}

// Preview returns a line for each step, with the diff below it.
func (p Plan) Preview() (lines []string) {
	for _, s := range p.Steps {
		lines = append(lines, strings.TrimSuffix("would have "+s.Done+"\n"+s.Diff, "\n"))
	}
	return lines
}

func (p *Plan) add(done, diff string, do ...func() error) {
	p.Steps = append(p.Steps, Step{Done: done, Diff: diff, do: func() error {
		for _, f := range do {
			if err := f(); err != nil {
				return err
			}
		}
		return nil
	}})
}

func diff(path string, a, b []byte) string { return udiff.Unified(path, path, string(a), string(b)) }

// tries is how often a plan is made again when a file changes meanwhile.
const tries = 5

// installing is the lock of all installations on the node, whichever directories they are
// for: these may have other paths in a container.
const installing = lock.File(lock.Root + "/install.lock")

// apply makes a plan and applies it, with other installations kept out; again if somebody
// else has written a file in between.
func apply(plan func() (Plan, error)) (p Plan, done []string, err error) {
	unlock, err := installing.Take(lock.Patience)
	if err != nil {
		return Plan{}, nil, err
	}
	defer unlock()
	for range tries {
		if p, err = plan(); err != nil {
			return Plan{}, done, err
		}
		var more []string
		more, err = p.Apply()
		done = append(done, more...)
		if !errors.Is(err, errChanged) {
			break
		}
	}
	return p, done, err
}
