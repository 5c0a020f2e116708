package watch

import (
	"context"
	"log/slog"
	"math/rand/v2"
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
)

// Period is about how often to look where no event comes. Not all that matters has one: a
// sysctl, a file of the record; and one may be lost.
const Period = 5 * time.Minute

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
	l.earliest = now.Add(l.fight.pause(l.log, now, changed))
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
