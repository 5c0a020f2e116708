package watch

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// fighter makes the same change in each call, while somebody undoes it, and one that
// it makes once.
func fighter(fights *bool) func(*watched, int) ([]string, error) {
	return func(w *watched, call int) ([]string, error) {
		once := fmt.Sprintf("added route %d", call)
		if !*fights {
			return []string{once}, nil
		}
		w.event()
		return []string{once, "added rule 6000"}, nil
	}
}

func TestFight(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fights := true
		w := watching(t, 0, fighter(&fights))
		w.later(100 * s)
		gaps := w.gaps()
		require.Len(t, gaps, tolerated+len(doubling))
		for _, gap := range gaps[:tolerated] {
			require.Equal(t, settle, gap)
		}
		require.Equal(t, doubling, gaps[tolerated:])
		w.requireLines(t, 1, "level=WARN")
		w.requireLines(t, 1, `what="[added rule 6000]"`)

		// For what is none of it, the pause goes on; until there has been peace.
		fights = false
		w.later(longestPause)
		before := len(w.calls)
		w.event()
		w.later(settle)
		require.Len(t, w.calls, before)
		w.later(longestPause)
		require.Len(t, w.calls, before+1)
		w.later(longestPause)
		w.event()
		w.later(settle)
		require.Len(t, w.calls, before+2)
		w.requireLines(t, 1, "it has not been undone any more")
		w.event()
		w.later(settle)
		require.Len(t, w.calls, before+3)

		// The next one is a fight of its own.
		fights = true
		w.event()
		w.later(time.Minute)
		w.requireLines(t, 2, "level=WARN")
		w.end()
	})
}

// Somebody who adds route after route, each of which is to be copied, is none.
func TestManyChangesAreNoFight(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := watching(t, 0, func(_ *watched, call int) ([]string, error) {
			return []string{fmt.Sprintf("added route %d", call)}, nil
		})
		for range 600 {
			w.event()
			w.later(100 * time.Millisecond)
		}
		require.Len(t, w.calls, 601)
		w.requireLines(t, 0, "level=WARN")
		w.end()
	})
}

// Nor is a change that is made again now and then.
func TestRareRepetitionIsNoFight(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := watching(t, 0, func(*watched, int) ([]string, error) { return []string{"added rule 6000"}, nil })
		for range 600 {
			w.event()
			w.later(2 * s)
		}
		require.Len(t, w.calls, 601)
		w.requireLines(t, 0, "level=WARN")
		w.end()
	})
}
