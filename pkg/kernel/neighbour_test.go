package kernel

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestAwaitIsOver: where the time for answers is over before they are waited for, as on a machine
// that was busy meanwhile, there is no wait. poll takes a negative time for one without an end.
func TestAwaitIsOver(t *testing.T) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	t.Cleanup(func() { unix.Close(fd) })
	over := make(chan error, 1)
	go func() {
		_, err := await([]*question{{neighbours: neighbours{fd: fd}}}, time.Now().Add(-10*time.Millisecond))
		over <- err
	}()
	select {
	case err := <-over:
		require.NoError(t, err)
	case <-time.After(10 * time.Second):
		t.Fatal("still waits")
	}
}
