package integration

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestWatchHeals: after each disaster the watcher makes the node whole again, by itself.
func TestWatchHeals(t *testing.T) {
	t.Parallel()
	healBy(t, func(t *testing.T, s *stricken) func(func() bool) {
		startWatcher(t, s.Node)
		return func(done func() bool) { require.Eventually(t, done, waitFor, tick) }
	})
}
