package integration

import "testing"

// TestResync: see [healBy].
func TestResync(t *testing.T) {
	t.Parallel()
	healBy(t, byResync)
}
