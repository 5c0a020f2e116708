package kernel

import (
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A dump that was interrupted is not used, not even in part: it is repeated, not for ever.
func TestDump(t *testing.T) {
	t.Parallel()
	list := func(interrupted int, last error) func() ([]int, error) {
		return func() ([]int, error) {
			if interrupted--; interrupted >= 0 {
				return []int{1}, netlink.ErrDumpInterrupted
			}
			return []int{1, 2}, last
		}
	}
	all, err := dump(list(3, nil))
	require.NoError(t, err)
	require.Equal(t, []int{1, 2}, all)
	all, err = dump(list(1000, nil))
	require.ErrorIs(t, err, netlink.ErrDumpInterrupted)
	require.Empty(t, all)
	_, err = dump(list(1, unix.EPERM))
	require.ErrorIs(t, err, unix.EPERM)
}
