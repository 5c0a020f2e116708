package watch

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/stretchr/testify/require"
)

// watched is a loop under way, in a bubble with a clock of its own.
type watched struct {
	events chan struct{}
	start  time.Time
	stop   context.CancelFunc
	ended  chan struct{}
	log    bytes.Buffer

	turn   atomic.Int32    // tells the race detector that the loop runs after the test, by the clock
	calls  []time.Duration // when resync was called, since the start
	states []string        // what the manager was told
}

// watching starts a loop that looks when something happens. Resync is called with the
// number of calls before it.
func watching(t *testing.T, watchdog time.Duration, resync func(w *watched, call int) ([]string, error)) *watched {
	t.Helper()
	return watchingEvery(t, 1e4*time.Hour, watchdog, resync)
}

// watchingEvery starts a loop that also looks once in a period.
func watchingEvery(t *testing.T, period, watchdog time.Duration, resync func(w *watched, call int) ([]string, error)) *watched {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	w := &watched{events: make(chan struct{}, 1), start: time.Now(), stop: stop, ended: make(chan struct{})}
	l := &loop{
		period: period,
		log:    slog.New(slog.NewTextHandler(&w.log, nil)),
		manager: Manager{
			Notify:   func(state string) { w.turn.Load(); w.states = append(w.states, state) },
			Watchdog: watchdog,
		},
		resync: func() ([]string, error) {
			w.turn.Load()
			w.calls = append(w.calls, time.Since(w.start))
			return resync(w, len(w.calls)-1)
		},
	}
	go func() {
		defer close(w.ended)
		l.run(ctx, w.events)
	}()
	synctest.Wait()
	return w
}

// nothing finds nothing to do.
func nothing(*watched, int) ([]string, error) { return nil, nil }

// event is one of the kernel's, or several.
func (w *watched) event() {
	select {
	case w.events <- struct{}{}:
	default:
	}
}

// end stops the loop and waits for it.
func (w *watched) end() {
	w.stop()
	<-w.ended
}

// later lets time pass, to the point at which everything sleeps again.
func (w *watched) later(d time.Duration) {
	w.turn.Add(1)
	time.Sleep(d)
	synctest.Wait()
}

// gaps are the times between calls.
func (w *watched) gaps() []time.Duration {
	var gaps []time.Duration
	for i := 1; i < len(w.calls); i++ {
		gaps = append(gaps, w.calls[i]-w.calls[i-1])
	}
	return gaps
}

func (w *watched) requireLines(t *testing.T, n int, about string) {
	t.Helper()
	require.Equal(t, n, strings.Count(w.log.String(), about), w.log.String())
}

const s = time.Second

// doubling are the pauses after an error, and amid a fight.
var doubling = []time.Duration{1 * s, 2 * s, 4 * s, 8 * s, 16 * s, 30 * s, 30 * s}

func TestIdleWithoutEvents(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := watching(t, 0, nothing)
		require.Equal(t, []time.Duration{0}, w.calls)
		require.Equal(t, []string{daemon.SdNotifyReady}, w.states)
		w.later(1000 * time.Hour)
		w.end()
		require.Len(t, w.calls, 1)
		require.Equal(t, []string{daemon.SdNotifyReady, daemon.SdNotifyStopping}, w.states)
	})
}

// TestLooksWithoutEvents: about every period, but not all watchers at once; an event comes
// on top.
func TestLooksWithoutEvents(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := watchingEvery(t, Period, 0, nothing)
		w.later(1000 * Period)
		require.InDelta(t, 1000, len(w.calls), 100)
		different := map[time.Duration]bool{}
		for _, gap := range w.gaps() {
			require.InDelta(t, Period, gap, float64(Period/5))
			different[gap] = true
		}
		require.Greater(t, len(different), 100)
		last := w.calls[len(w.calls)-1]
		w.event()
		w.later(settle)
		require.Less(t, w.calls[len(w.calls)-1]-last, Period*6/5)
		require.Equal(t, time.Since(w.start), w.calls[len(w.calls)-1])
		w.end()
	})
}

func TestBurstIsOneResync(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := watching(t, 0, nothing)
		w.later(time.Minute)
		for range 20 {
			w.event()
			w.later(settle - time.Millisecond)
		}
		require.Len(t, w.calls, 1)
		w.later(time.Minute)
		require.Equal(t, []time.Duration{0, time.Minute + 19*(settle-time.Millisecond) + settle}, w.calls)
		w.end()
	})
}

func TestEndlessStorm(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := watching(t, 0, nothing)
		for range 700 {
			w.event()
			w.later(10 * time.Millisecond)
		}
		require.Len(t, w.calls, 4)
		require.Equal(t, longest, w.calls[1])
		for _, gap := range w.gaps() {
			require.LessOrEqual(t, gap, longest+10*time.Millisecond)
		}
		w.end()
	})
}

// What comes while resync is at work may have come too late for it.
func TestEventDuringResync(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := watching(t, 0, func(w *watched, call int) ([]string, error) {
			if call == 0 {
				w.event()
				time.Sleep(s)
			}
			return nil, nil
		})
		w.later(time.Minute)
		require.Equal(t, []time.Duration{0, s + settle}, w.calls)
		w.end()
	})
}

func TestOwnWritesAreLookedAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := watching(t, 0, func(w *watched, call int) ([]string, error) {
			if call > 0 {
				return nil, nil
			}
			w.event()
			return []string{"a", "b", "c", "d"}, nil
		})
		w.later(time.Hour)
		require.Len(t, w.calls, 2)
		w.requireLines(t, 1, `changes=4 first="[a b c]"`)
		w.end()
	})
}

func TestErrorIsTriedAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fails := true
		w := watching(t, 0, func(w *watched, _ int) ([]string, error) {
			if !fails {
				return nil, nil
			}
			if len(w.calls)%2 == 0 {
				w.event() // of what was written before it failed
			}
			return []string{"added one"}, errors.New("no such luck")
		})
		w.later(95 * s)
		require.Equal(t, doubling, w.gaps())
		w.requireLines(t, len(w.calls), `level=ERROR msg="could not repair what is not as recorded" error="no such luck"`)
		w.requireLines(t, len(w.calls), `first="[added one]"`)
		require.Empty(t, w.states)

		fails = false
		w.later(longestPause)
		before := len(w.calls)
		require.Equal(t, []string{daemon.SdNotifyReady}, w.states)
		w.later(time.Hour)
		w.event()
		w.later(settle)
		require.Len(t, w.calls, before+1)

		// The next error is the first again; that is all there is to hear.
		fails = true
		w.event()
		w.later(settle + s)
		require.Equal(t, []time.Duration{settle, s}, w.gaps()[len(w.gaps())-2:])
		require.Equal(t, []string{daemon.SdNotifyReady}, w.states)
		w.end()
	})
}

func TestStopLetsResyncFinish(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		finished := false
		w := watching(t, 0, func(*watched, int) ([]string, error) {
			time.Sleep(time.Minute)
			finished = true
			return nil, nil
		})
		w.end()
		require.True(t, finished)
		require.Len(t, w.calls, 1)
		require.Equal(t, daemon.SdNotifyStopping, w.states[len(w.states)-1])
	})
}

func TestStopAmidAPause(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := watching(t, 0, func(*watched, int) ([]string, error) { return nil, errors.New("no such luck") })
		w.end()
		require.Equal(t, []string{daemon.SdNotifyStopping}, w.states)
		require.Zero(t, time.Since(w.start))
	})
}

// The watchdog hears from the loop twice in its time, but not while resync hangs.
func TestWatchdog(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		hangs := false
		w := watching(t, 10*s, func(*watched, int) ([]string, error) {
			if hangs {
				time.Sleep(time.Hour)
			}
			return nil, nil
		})
		w.later(60 * s)
		alive := func() int { return strings.Count(strings.Join(w.states, "\n"), daemon.SdNotifyWatchdog) }
		require.Equal(t, 12, alive())
		hangs = true
		w.event()
		w.later(30 * time.Minute)
		require.Equal(t, 12, alive())
		hangs = false
		w.later(30*time.Minute + 10*s)
		require.Greater(t, alive(), 12)
		w.end()
	})
}
