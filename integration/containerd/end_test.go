package containerd

import (
	"testing"

	"github.com/stretchr/testify/require"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestStopAndRemove: the end of a pod as the kubelet makes it, more than once.
func TestStopAndRemove(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	before := n.worn(t)
	calls := n.recordCalls(t)
	s := n.runPod(t, "shop", both)
	s.requireSeen(t, egress4, egress6)
	for range 2 {
		s.stop(t)
		require.Equal(t, runtime.PodSandboxState_SANDBOX_NOTREADY, s.state(t))
	}
	for range 2 {
		s.remove(t)
		n.requireNoSandbox(t)
	}
	n.requireState(t, before)
	require.Equal(t, []string{
		"ADD, namespace, result",
		"DEL, namespace, result",
		"DEL, no namespace, no result",
		"DEL, no namespace, no result",
	}, calls(), "containerd does not call any more as this test is to show")
}

// TestRemoveRunning: RemovePodSandbox without a StopPodSandbox before it.
func TestRemoveRunning(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	before := n.worn(t)
	s := n.runPod(t, "shop", both)
	s.requireSeen(t, egress4, egress6)
	s.remove(t)
	n.requireState(t, before)
}

// TestSandboxKilled: the kubelet makes a new sandbox for the pod, with the same addresses,
// while the dead one is there.
func TestSandboxKilled(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	before := n.worn(t)
	dead := n.runPod(t, "shop", both)
	dead.killPause(t)

	config := n.podConfig("shop", both)
	config.Metadata.Attempt = 1
	alive, err := n.tryPod(t, config)
	require.NoError(t, err)
	alive.requireSeen(t, egress4, egress6)

	dead.stop(t)
	alive.requireSeen(t, egress4, egress6)
	dead.remove(t)
	alive.requireSeen(t, egress4, egress6)
	alive.stop(t)
	alive.remove(t)
	n.requireState(t, before)
}

// TestNamespaceGone: the network namespace goes before the pod is stopped, and with it the
// pod's link.
func TestNamespaceGone(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	before := n.worn(t)
	s := n.runPod(t, "shop", both)
	calls := n.recordCalls(t)
	netns := s.netns(t)
	s.killPause(t)
	n.run(t, "umount", netns)
	n.run(t, "rm", netns)
	s.stop(t)
	s.remove(t)
	n.requireNoSandbox(t)
	n.requireState(t, before, "masquerade comment") // bridge leaves its own rule, if it gets no namespace
	require.Equal(t, []string{"DEL, no namespace, result", "DEL, no namespace, no result"}, calls())
}
