// Package watch is `egress-ip resync --watch`: it resyncs at once, and again
// whenever something has changed that may matter, and is idle in between. It
// knows when to look; what to look at and how to repair it is package node's,
// and what tells of changes is package kernel's. It does the same for
// `egress-ip install --watch` and package install.
package watch

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

const (
	// settle is how long after the last event of a burst the resync comes, and
	// longest how long after the first, when the burst does not end.
	settle  = 50 * time.Millisecond
	longest = 2 * time.Second

	// A pause, after an error or amid a fight, begins with the shortest and doubles.
	shortestPause = time.Second
	longestPause  = 30 * time.Second

	// It is a fight when the same change was made more than tolerated times within
	// window, and over when no such change was made for peace, which is longer than
	// the longest pause.
	tolerated = 10
	window    = 10 * time.Second
	peace     = time.Minute
)

// Period is about how often to look where no event comes. Not all that matters has one: a
// sysctl, a file of the record; and one may be lost.
const Period = 5 * time.Minute

// Manager is the service manager, if there is one, which is told how things are.
type Manager struct {
	// Notify tells it one of sd_notify's states: READY=1 once a resync has
	// succeeded, WATCHDOG=1 twice every Watchdog, STOPPING=1 at the end.
	Notify func(state string)

	// Watchdog is how long it waits for a sign of life; 0 is for ever.
	Watchdog time.Duration
}

// Systemd is the manager that the environment names, in NOTIFY_SOCKET and
// WATCHDOG_USEC; without them it is told nothing.
func Systemd() (Manager, error) {
	watchdog, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		return Manager{}, fmt.Errorf("read WATCHDOG_USEC or WATCHDOG_PID, which systemd sets: %w", err)
	}
	return Manager{Watchdog: watchdog, Notify: func(state string) {
		if _, err := daemon.SdNotify(false, state); err != nil {
			slog.Warn("could not tell the service manager", "state", state, "error", err)
		}
	}}, nil
}

// Run calls resync, or whatever else repairs something, at once, after each burst of events,
// again after an error, and at the latest one period, give or take a fifth, after the last
// call, until ctx is done; it waits for a call that is under way then. Resync returns a
// line for each change that it made, also together with an error.
//
// Resync's own writes come back as events: one more call, which finds nothing.
// Where it finds something each time, because somebody wants it otherwise, the
// calls become rare. Run logs changes and errors and never gives up.
func Run(ctx context.Context, events <-chan struct{}, resync func() (changed []string, err error), manager Manager, period time.Duration) {
	l := &loop{resync: resync, manager: manager, log: slog.Default(), period: period}
	l.run(ctx, events)
}

// loop is one goroutine's.
type loop struct {
	resync  func() ([]string, error)
	manager Manager
	log     *slog.Logger
	period  time.Duration

	timer    *time.Timer // fires when resync is due
	burst    time.Time   // the first event since the last resync, if there was any
	earliest time.Time   // amid a pause, its end
	retry    time.Duration
	fight    fight
	ready    bool // once a resync has succeeded
}

func (l *loop) run(ctx context.Context, events <-chan struct{}) {
	defer l.manager.Notify(daemon.SdNotifyStopping)
	var alive <-chan time.Time
	if l.manager.Watchdog > 0 {
		ticker := time.NewTicker(l.manager.Watchdog / 2)
		defer ticker.Stop()
		alive = ticker.C
	}
	l.timer = time.NewTimer(longest)
	defer l.timer.Stop()
	l.look()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-events:
			l.schedule(time.Now())
		case <-l.timer.C:
			l.look()
		case <-alive:
			// From here and nowhere else, so that a resync that hangs is missed.
			l.manager.Notify(daemon.SdNotifyWatchdog)
		}
	}
}

// schedule sets the timer after an event.
func (l *loop) schedule(now time.Time) {
	if l.burst.IsZero() {
		l.burst = now
	}
	due := now.Add(settle)
	if last := l.burst.Add(longest); last.Before(due) {
		due = last
	}
	if l.earliest.After(due) {
		due = l.earliest
	}
	l.timer.Reset(due.Sub(now))
	l.log.Debug("something has changed", "look_in", due.Sub(now))
}

// look resyncs, and says what came of it. Events that come meanwhile are of the
// next burst.
func (l *loop) look() {
	l.timer.Stop()
	l.burst = time.Time{}
	changed, err := l.resync()
	now := time.Now()
	if len(changed) > 0 {
		l.log.Info("repaired what was not as recorded", "changes", len(changed), "first", first(changed))
	}
	for _, c := range changed {
		l.log.Debug("changed", "what", c)
	}
	if err != nil {
		l.retry = longer(l.retry)
		l.earliest = now.Add(l.retry)
		l.timer.Reset(l.retry)
		l.log.Error("could not repair what is not as recorded", "error", err, "again_in", l.retry)
		return
	}
	l.retry = 0
	l.earliest = now.Add(l.fight.after(l.log, now, changed))
	// Not all nodes' watchers at the same moment.
	l.timer.Reset(l.period*4/5 + rand.N(l.period*2/5))
	if !l.ready {
		l.ready = true
		l.log.Info("watching from now on")
		l.manager.Notify(daemon.SdNotifyReady)
	}
}

// longer returns the pause after this one.
func longer(pause time.Duration) time.Duration {
	return min(max(2*pause, shortestPause), longestPause)
}

// first returns the first few lines, for the log.
func first(lines []string) []string { return lines[:min(len(lines), 3)] }

// fight notices that what resync repairs is undone again and again. Changes
// that are new each time, of somebody who adds route after route, are none.
type fight struct {
	since time.Time      // begin of the window
	made  map[string]int // how often each change was made in it

	over  []string      // what the fight is about; empty: there is none
	last  time.Time     // when that was last repaired
	pause time.Duration // before the next look
}

// after returns how long not to look, after a resync that made these changes.
func (f *fight) after(log *slog.Logger, now time.Time, changed []string) time.Duration {
	if len(f.over) > 0 && now.Sub(f.last) > peace {
		log.Info("it has not been undone any more; changes are looked at without a pause again", "what", first(f.over), "for", peace)
		*f = fight{}
	}
	if len(f.over) > 0 {
		if slices.ContainsFunc(changed, func(c string) bool { return slices.Contains(f.over, c) }) {
			f.last, f.pause = now, longer(f.pause)
		}
		return f.pause
	}
	if now.Sub(f.since) > window {
		f.since, f.made = now, map[string]int{}
	}
	for _, c := range changed {
		f.made[c]++
		if f.made[c] > tolerated {
			f.over = append(f.over, c)
		}
	}
	if len(f.over) > 0 {
		*f = fight{over: f.over, last: now, pause: shortestPause}
		log.Warn("another program undoes again and again what is repaired here; find out which: until it ends, changes are looked at less and less often",
			"what", first(f.over), "times", tolerated+1, "within", window, "pause", f.pause, "longest_pause", longestPause)
	}
	return f.pause
}
