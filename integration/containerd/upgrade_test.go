package containerd

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestUpgrade: the binary is replaced by a newer one while pods run. They run on, and the
// newer one ends what the older one began.
func TestUpgrade(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	before := n.worn(t)
	older := n.runPod(t, "older", both)
	n.installPlugin(t, "egress-ip", built.newer)
	require.Contains(t, n.run(t, n.path("bin/egress-ip"), "version"), newerVersion)
	older.requireSeen(t, egress4, egress6)

	newer := n.runPod(t, "newer", both)
	newer.requireSeen(t, egress4, egress6)
	older.requireSeen(t, egress4, egress6)
	older.stop(t)
	older.remove(t)
	newer.requireSeen(t, egress4, egress6)
	newer.stop(t)
	newer.remove(t)
	n.requireState(t, before)
}
