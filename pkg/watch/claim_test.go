package watch

import (
	"os"
	"testing"
	"time"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
)

func TestClaim(t *testing.T) {
	t.Parallel()
	here, elsewhere := nettest.New(t, "here"), nettest.New(t, "elsewhere")
	claim := func(n *nettest.Namespace) (release func(), err error) {
		n.Do(t, func() { release, err = Resync.Claim() })
		return release, err
	}
	running := func() (pid int, running bool) {
		here.Do(t, func() {
			var err error
			pid, running, err = Resync.Running()
			require.NoError(t, err)
		})
		return pid, running
	}
	_, ok := running()
	require.False(t, ok)
	release, err := claim(here)
	require.NoError(t, err)
	// To look takes nothing from who has it.
	for range 100 {
		pid, ok := running()
		require.True(t, ok)
		require.Equal(t, os.Getpid(), pid)
	}
	_, err = claim(here)
	var refused *RunningError
	require.ErrorAs(t, err, &refused)
	require.Equal(t, os.Getpid(), refused.PID)
	other, err := claim(elsewhere)
	require.NoError(t, err)
	other()
	release()
	// The thread that has waited for the refused claim gets the lock now, and releases it.
	require.Eventually(t, func() bool { _, ok := running(); return !ok }, nettest.Within(10*time.Second), 10*time.Millisecond)
	release, err = claim(here)
	require.NoError(t, err)
	release()
}
