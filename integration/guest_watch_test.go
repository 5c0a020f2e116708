//go:build guest

package integration

import "testing"

// TestGuestWatch: the watcher starts within the limits that the kernel has by default, for the
// options of sockets above all (net.core.optmem_max), and heals.
func TestGuestWatch(t *testing.T) {
	t.Parallel()
	newNode(t).requireHealed(t)
}
