package integration

import (
	"testing"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
)

func TestStatusCommand(t *testing.T) {
	t.Parallel()
	c := newCluster(t, nettest.LabOptions{SecondDefault: true}, "1.0.0")
	c.egressIP(t, "status")
	d := c.newDirect(t, "pod", "10.244.1.5", "fd00:10:244::5", egressIP(nil))
	d.add(t, both)
	d.requireSeen(t, egress4, egress6)
	_, exit := c.egressIP(t, "status")
	require.Zero(t, exit)
	c.command(t, "nft", "flush", "ruleset")
	c.command(t, "ip", "route", "flush", "table", c.table(t))
	_, exit = c.egressIP(t, "status")
	require.Equal(t, 1, exit)
	c.Node.SetDown(t, nettest.SecondLink)
	_, exit = c.egressIP(t, "status")
	c.egressIP(t, "cleanup")
	c.egressIP(t, "cleanup", "--force")
	_, exit = c.egressIP(t, "status")
	require.Zero(t, exit)
}
