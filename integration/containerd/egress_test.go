package containerd

import (
	"testing"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
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

// hostPort is the node's port 8081 for a pod's 8080.
var hostPort = []*runtime.PortMapping{{Protocol: runtime.Protocol_TCP, ContainerPort: 8080, HostPort: 8081}}

// TestHostPort: a connection from outside to an annotated pod's host port comes in by the
// primary link, and is answered by it.
func TestHostPort(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	before := n.worn(t)
	config := n.podConfig("shop", both)
	config.PortMappings = hostPort
	s, err := n.tryPod(t, config)
	require.NoError(t, err)
	s.startContainer(t, "serve", ":8080")
	second := n.Router.Capture(t, nettest.RouterSecondLink)
	for node, server := range map[string]string{
		nettest.PrimaryIPv4 + ":8081": nettest.ServerIPv4, "[" + nettest.PrimaryIPv6 + "]:8081": nettest.ServerIPv6,
	} {
		eventually(t, func() error { // until the container listens
			saw, err := n.Server.Ask("tcp", node)
			if err == nil {
				require.Equal(t, server, saw.String())
			}
			return err
		})
	}
	isAnswer := func(p nettest.Packet) bool { return p.SrcPort == 8081 }
	require.Zero(t, second.Count(isAnswer), "%v", second.Packets())
	s.requireSeen(t, egress4, egress6)
	s.stop(t)
	s.remove(t)
	n.requireState(t, before)
}
