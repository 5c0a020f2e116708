package install

import (
	"fmt"

	"github.com/egress-ip/egress-ip/pkg/atomicfile"
	"github.com/egress-ip/egress-ip/pkg/config"
	"github.com/egress-ip/egress-ip/pkg/conflist"
)

// Wanted is the entry that is to be in the list, as [conflist.Entry] returns it.
type Wanted struct {
	Entry []byte // nil: the one that is there
	Else  []byte // where there is none either
}

// Plan says what Install would do.
func (p Place) Plan(w Wanted) (Plan, error) { return p.plan(w, false) }

// Install puts the binary and the entry in their places, the binary first. Where that
// cannot work nothing is written, and the error is a [RefusedError] or a
// [NotYetError]. It returns what was done, also with an error.
func (p Place) Install(w Wanted) (Plan, []string, error) {
	return apply(func() (Plan, error) { return p.Plan(w) })
}

func (p Place) plan(w Wanted, restore bool) (Plan, error) {
	s, err := p.read()
	if err != nil {
		return Plan{}, err
	}
	unread, err := p.unread(s)
	if err != nil {
		return Plan{}, err
	}
	plan := Plan{Warnings: append(s.list.Warnings(), unread...)}
	entry := w.Entry
	if entry == nil {
		entry = s.list.Entry()
		if _, err := config.ParseEntry(entry); entry != nil && err != nil {
			return Plan{}, refused("%s: the entry that is there: %w; correct it, or give another", s.name, err)
		}
	}
	if entry == nil {
		entry = w.Else
	}
	plan.Entry = entry
	if config.MissesCapability(entry) {
		plan.Warnings = append(plan.Warnings, `the entry has links, but its "capabilities" lack "io.kubernetes.cri.pod-annotations": true, so no annotation arrives`)
	}
	c, err := config.ParseEntry(entry)
	if err != nil {
		return Plan{}, err
	}
	beside, err := s.list.Beside(c)
	if err != nil {
		return Plan{}, refused("%s: %w", s.name, err)
	}
	plan.Warnings = append(plan.Warnings, beside...)
	missing, err := missingLinks(c)
	if err != nil {
		return Plan{}, err
	}
	plan.Warnings = append(plan.Warnings, missing...)
	if err := p.planBinary(&plan, restore); err != nil {
		return Plan{}, err
	}
	return plan, planEntry(&plan, s, entry)
}

// planEntry adds the change of the list.
func planEntry(plan *Plan, s source, entry []byte) error {
	text, err := s.list.With(entry)
	if err != nil {
		return err
	}
	if conflist.Same(text, s.text) {
		plan.Notes = append(plan.Notes, s.name+" has the entry already")
		return nil
	}
	changes, overwrite := diff(s.name, s.text, text), func() error { return s.overwrite(text) }
	if s.list.Entry() != nil {
		plan.add("changed the entry in "+s.name, changes, overwrite)
		return nil
	}
	aside := s.path + original
	plan.add(fmt.Sprintf("put the entry into %s, behind %s; the file as it was is %s", s.name, s.list.Main().Type, aside), changes,
		func() error { return atomicfile.Write(aside, s.text, s.attributes) }, overwrite)
	return nil
}
