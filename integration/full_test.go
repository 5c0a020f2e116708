package integration

import (
	"fmt"
	"strings"
	"testing"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
)

// TestFullTable: a node whose table has no room for another pod says so, and the pod that did
// not get in leaves nothing there.
func TestFullTable(t *testing.T) {
	t.Parallel()
	c := newCluster(t, nettest.LabOptions{SecondDefault: true}, "1.0.0")
	first := c.newDirect(t, "first", "10.244.1.5", "fd00:10:244::5", egressIP(nil))
	first.add(t, both)
	var fill strings.Builder
	fill.WriteString("add element inet egress_ip out4 {")
	for i := range 1<<14 - 2 { // the first pod has two
		fmt.Fprintf(&fill, " 100.64.%d.%d : goto others,\n", i/256, i%256)
	}
	c.load(t, fill.String()+" }", "nft", "-f")
	next := c.newDirect(t, "next", "10.244.1.6", "fd00:10:244::6", egressIP(nil))
	before := c.state(t)
	out, err := next.call(t, "ADD", address("192.168.124.98,fd00:124::98"))
	require.Error(t, err)
	require.Contains(t, out, "16384")
	require.Equal(t, before, c.state(t))
	first.requireSeen(t, egress4, egress6)
}
