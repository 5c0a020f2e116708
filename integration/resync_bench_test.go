package integration

import (
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
)

// cpuOf runs a command of the binary on the node, and returns the CPU that it took.
func (c *cluster) cpuOf(tb testing.TB, args ...string) time.Duration {
	tb.Helper()
	cmd := exec.Command(filepath.Join(bin, "egress-ip"), args...)
	require.NoError(tb, c.Node.Run(cmd))
	return cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
}

func TestResyncMany(t *testing.T) {
	c := newNode(t)
	sandbox := nettest.New(t, "sandbox").Path()
	require.Empty(t, each(0, 1000, runtime.NumCPU(), func(n int) error {
		_, err := c.plugin(numbered(t, "ADD", sandbox, n, 4, 6))
		return err
	}))
	for range 5 {
		t.Logf("nothing to do: %s", c.cpuOf(t, "resync"))
	}
	before := c.state(t)
	for range 3 {
		c.command(t, "nft", "flush", "ruleset")
		for _, f := range []string{"-4", "-6"} {
			c.command(t, "ip", f, "route", "flush", "table", c.table(t))
		}
		t.Logf("all to do: %s", c.cpuOf(t, "resync"))
	}
	require.Equal(t, before, c.state(t))
}
