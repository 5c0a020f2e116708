package containerd

import (
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestContainerdRestarted: pods run on while containerd does not, and the next one ends them.
func TestContainerdRestarted(t *testing.T) {
	t.Parallel()
	for name, signal := range map[string]syscall.Signal{"ended": syscall.SIGTERM, "killed": syscall.SIGKILL} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t)
			before := n.worn(t)
			s := n.runPod(t, "shop", both)
			netns := s.netns(t)
			n.endContainerd(t, signal)
			n.requireSeen(t, netns, egress4, egress6)
			n.startContainerd(t)
			n.waitReady(t)
			require.Equal(t, runtime.PodSandboxState_SANDBOX_READY, s.state(t))
			s.requireSeen(t, egress4, egress6)
			s.stop(t)
			s.remove(t)
			n.requireState(t, before)
		})
	}
}

// TestReboot: the node is switched off with its pods. After it, containerd remembers them
// from its disk; the kernel, and /run, know nothing.
func TestReboot(t *testing.T) {
	t.Parallel()
	d := newDisk(t)
	first := boot(t, d)
	clean := onDisk(first.worn(t))
	s := first.runPod(t, "shop", both)
	s.requireSeen(t, egress4, egress6)
	first.switchOff(t)

	second := boot(t, d)
	before := second.worn(t)
	s.node = second
	require.Equal(t, runtime.PodSandboxState_SANDBOX_NOTREADY, s.state(t))
	config := second.podConfig("shop", both)
	config.Metadata.Attempt = 1
	again, err := second.tryPod(t, config)
	require.NoError(t, err)
	again.requireSeen(t, egress4, egress6)
	s.stop(t)
	s.remove(t)
	again.requireSeen(t, egress4, egress6)
	again.stop(t)
	again.remove(t)

	second.requireState(t, before, kept)
	require.NotEqual(t, clean, onDisk(before))
	after, err := second.state()
	require.NoError(t, err)
	require.Equal(t, clean, onDisk(after))
}

// kept is what a node keeps when it is switched off; there are leases and results in it.
const kept = "/var/lib/"

// onDisk is the part of a node's state that is kept.
func onDisk(state []string) []string {
	return slices.DeleteFunc(slices.Clone(state), func(line string) bool { return !strings.HasPrefix(line, kept) })
}
