package record

import (
	"net/netip"
	"os"
	"runtime"
	"testing"

	"github.com/egress-ip/egress-ip/pkg/egress"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestRootStays: a directory that a container has mounted is not replaced by one that it
// does not see, neither with the last attachment nor by a clean-up.
func TestRootStays(t *testing.T) {
	t.Parallel()
	privateRun(t)
	store, err := Open()
	require.NoError(t, err)
	pod := netip.MustParseAddr("10.244.1.5")
	a := egress.Attachment{Owner: egress.Owner{ContainerID: "c1", IfName: "eth0"}, Flows: []egress.Flow{{Pod: pod}}}
	require.NoError(t, store.Put(a))
	mounted, err := os.Stat(Root)
	require.NoError(t, err)
	for name, end := range map[string]func() error{
		"remove":  func() error { return store.Remove(a) },
		"destroy": store.Destroy,
	} {
		require.NoError(t, store.Put(a), name)
		require.NoError(t, end(), name)
		require.NoDirExists(t, store.Dir(), name)
		now, err := os.Stat(Root)
		require.NoError(t, err, name)
		require.True(t, os.SameFile(mounted, now), name)
	}
}

// privateRun gives the test a /run of its own; it is gone with the test's thread.
func privateRun(t *testing.T) {
	t.Helper()
	runtime.LockOSThread() // and never unlocked
	require.NoError(t, unix.Unshare(unix.CLONE_FS|unix.CLONE_NEWNS))
	require.NoError(t, unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	require.NoError(t, unix.Mount("none", "/run", "tmpfs", 0, ""))
}
