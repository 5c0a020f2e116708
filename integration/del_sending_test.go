package integration

import (
	"net"
	"testing"
	"time"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
)

// TestDelWhilePodSends: what a pod still sends once its DEL has begun, before the main plugin removes its link, leaves by
// its link with its egress address, or not at all: on connections that it had, and on new ones.
func TestDelWhilePodSends(t *testing.T) {
	t.Parallel()
	for name, before := range map[string]func(t *testing.T, g *guarded){
		"record": func(*testing.T, *guarded) {},
		"damaged record": func(t *testing.T, g *guarded) {
			g.command(t, "sh", "-c", "for f in "+g.recordDir(t)+"/attachments/pod:*; do echo '{' >$f; done")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newGuarded(t, nil)
			g.masquerade(t)
			stop := keepSending(t, g.pod.Namespace)
			require.Eventually(t, func() bool { return len(g.sources(t)) == len(rightSources) }, waitFor, tick)
			before(t, g)
			g.pod.del(t)
			time.Sleep(100 * time.Millisecond) // the main plugin's part of the DEL
			require.ElementsMatch(t, rightSources, g.sources(t))
			stop()
			require.Empty(t, g.attachments(t))

			// Whoever attaches the same link once more has one that sends.
			g.pod.add(t, nil)
			g.pod.requireSeen(t, nettest.PrimaryIPv4, nettest.PrimaryIPv6)
		})
	}
	for name, main := range map[string]func(*testing.T) object{"bridge": func(t *testing.T) object { return bridge(t, "nftables") }, "ptp": ptp} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := &guarded{cluster: newCluster(t, nettest.LabOptions{SecondDefault: true}, "1.0.0", main(t), egressIP(nil))}
			g.load(t, masquerading, "nft", "-f")
			g.countSources(t)
			for range 5 {
				p := g.add(t, both)
				stop := keepSending(t, p.Namespace)
				require.Eventually(t, func() bool { return len(g.sources(t)) == len(rightSources) }, waitFor, tick)
				p.del(t)
				stop()
				require.ElementsMatch(t, rightSources, g.sources(t))
			}
		})
	}
}

// TestDelInAnotherNamespace: a DEL that comes late may be called with a CNI_NETNS that is another pod's by now, or is the node's
// own. It silences neither.
func TestDelInAnotherNamespace(t *testing.T) {
	t.Parallel()
	c := newNode(t)
	c.masquerade(t)
	other := c.newDirect(t, "other", "10.244.1.6", "fd00:10:244::6", egressIP(nil))
	for name, netns := range map[string]string{"another pod's": other.Path(), "the node's": c.Node.Path()} {
		d := c.newDirect(t, "pod", "10.244.1.5", "fd00:10:244::5", egressIP(nil))
		d.add(t, both)
		d.die(t)
		_, _ = c.plugin(call{command: "DEL", containerID: "pod", netns: netns})
		require.NoError(t, c.bareDel("pod"), name)
		require.Empty(t, c.attachments(t), name)
	}
	other.requireSeen(t, nettest.PrimaryIPv4, nettest.PrimaryIPv6)
}

// keepSending opens connections over UDP, and sends on one that it has opened before, per address family, until what it returns
// is called.
func keepSending(t *testing.T, n *nettest.Namespace) (stop func()) {
	t.Helper()
	stopped, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		n.Do(t, func() {
			open := map[string]net.Conn{}
			for {
				for _, server := range []string{nettest.ServerAskIPv4, nettest.ServerAskIPv6} {
					if open[server] == nil {
						open[server], _ = net.Dial("udp", server)
					}
					if conn, err := net.Dial("udp", server); err == nil {
						_, _ = conn.Write([]byte("?"))
						_ = conn.Close()
					}
					if open[server] != nil {
						_, _ = open[server].Write([]byte("?"))
					}
				}
				select {
				case <-stopped:
					return
				case <-time.After(200 * time.Microsecond):
				}
			}
		})
	}()
	return func() { close(stopped); <-done }
}
