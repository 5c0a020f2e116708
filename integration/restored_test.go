package integration

import (
	"testing"

	"github.com/egress-ip/egress-ip/pkg/nettest"
)

// TestTableLoadedAgain: where somebody has loaded a saved table the next pod starts, and all
// have their addresses.
func TestTableLoadedAgain(t *testing.T) {
	t.Parallel()
	c := newCluster(t, nettest.LabOptions{SecondDefault: true}, "1.0.0")
	d := c.newDirect(t, "pod", pod4, pod6, egressIP(nil))
	d.add(t, both)
	loadTable(t, c)
	other := c.newDirect(t, "other", neighbour4, neighbour6, egressIP(nil))
	other.add(t, both)
	d.requireSeen(t, egress4, egress6)
	other.requireSeen(t, egress4, egress6)
	c.status(t, 0)
}
