package watch

import (
	"log/slog"
	"slices"
	"time"
)

const (
	// It is a fight when the same change was made more than tolerated times within
	// window, and over when no such change was made for peace, which is longer than
	// the longest pause.
	tolerated = 10
	window    = 10 * time.Second
	peace     = time.Minute
)

// fight notices that what resync repairs is undone again and again. Changes
// that are new each time, of somebody who adds route after route, are none.
//
// It is not made of golang.org/x/time/rate: that would be a limiter per change, which
// somebody has to forget again, as here, and the pauses that grow would come on top.
type fight struct {
	since time.Time      // begin of the window
	made  map[string]int // how often each change was made in it

	over   []string      // what the fight is about; empty: there is none
	last   time.Time     // when that was last repaired
	length time.Duration // of the pauses
}

// pause returns how long not to look, after a resync that made these changes.
func (f *fight) pause(log *slog.Logger, now time.Time, changed []string) time.Duration {
	if len(f.over) > 0 {
		f.goOn(log, now, changed)
	}
	if len(f.over) == 0 && f.begins(now, changed) {
		log.Warn("another program undoes again and again what is repaired here; find out which: until it ends, changes are looked at less and less often",
			"what", first(f.over), "times", tolerated+1, "within", window, "pause", f.length, "longest_pause", longestPause)
	}
	return f.length
}

// begins counts, and reports whether these changes were made too often.
func (f *fight) begins(now time.Time, changed []string) bool {
	if len(changed) == 0 {
		return false
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
	if len(f.over) == 0 {
		return false
	}
	f.made, f.since, f.last, f.length = nil, time.Time{}, now, shortestPause
	return true
}

// goOn makes the pause longer, or ends the fight.
func (f *fight) goOn(log *slog.Logger, now time.Time, changed []string) {
	again := slices.ContainsFunc(changed, func(c string) bool { return slices.Contains(f.over, c) })
	switch {
	case now.Sub(f.last) > peace:
		log.Info("it has not been undone any more; changes are looked at without a pause again", "what", first(f.over), "for", peace)
		*f = fight{}
	case again:
		f.last, f.length = now, longer(f.length)
	}
}
