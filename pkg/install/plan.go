package install

import (
	"errors"
	"strings"

	"github.com/aymanbagabas/go-udiff"
	"github.com/egress-ip/egress-ip/pkg/lock"
)

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
