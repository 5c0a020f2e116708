package containerd

import (
	"testing"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
)

// TestEgress: an annotated pod, its containers included, is seen with its addresses, a
// plain pod beside it with the node's, and when they are gone nothing is left.
func TestEgress(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	before := n.worn(t)
	annotated := n.runPod(t, "shop", both)
	plain := n.runPod(t, "plain", nil)
	annotated.requireSeen(t, egress4, egress6)
	plain.requirePlain(t)

	container := annotated.startContainer(t)
	require.Equal(t, egress4, container.run(t, "/pod", "ask", nettest.ServerAskIPv4))
	require.Equal(t, egress6, container.run(t, "/pod", "ask", nettest.ServerAskIPv6))

	for _, s := range []*sandbox{annotated, plain} {
		s.stop(t)
		s.remove(t)
	}
	n.requireState(t, before)
}
