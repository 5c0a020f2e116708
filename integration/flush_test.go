package integration

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
)

// TestFlushLargeRuleset: while a ruleset is flushed, the kernel takes the elements
// of all sets away at once and the rules table by table, with a large one
// (kube-proxy's, a firewall's) for milliseconds. Egress-ip's rules see none of its
// pods meanwhile, and must not take their packets for somebody else's: those would leave
// by the primary link, and with the node's address where somebody masquerades.
func TestFlushLargeRuleset(t *testing.T) {
	t.Parallel()
	c := newCluster(t, nettest.LabOptions{SecondDefault: true}, "1.0.0")
	large := "table inet large {\n\tchain unused {\n" + strings.Repeat("\t\tmeta mark 1 counter\n", 5000) + "\t}\n}\n" + `
table inet masquerades {
	chain postrouting {
		type nat hook postrouting priority srcnat
		oifname "eth0" masquerade
	}
}
`
	file := filepath.Join(t.TempDir(), "large.nft")
	require.NoError(t, os.WriteFile(file, []byte(large), 0o600))
	c.command(t, "nft", "-f", file)
	d := c.newDirect(t, "pod", "10.244.1.5", "fd00:10:244::5", egressIP(nil))
	d.add(t, both)
	d.requireSeen(t, egress4, egress6)
	require.NoError(t, os.WriteFile(file, []byte(c.command(t, "nft", "-s", "list", "ruleset")), 0o600))
	for range 10 {
		leaks := watchLeaks(t, c, d)
		knocking := knock(t, d.Namespace)
		require.Eventually(t, func() bool { return leaks.sent() > 0 }, waitFor, tick)
		leaks.requireNone(t)
		c.command(t, "nft", "flush", "ruleset")
		knocking()
		leaks.requireNoneByPrimary(t)
		leaks.stop()
		c.command(t, "nft", "-f", file)
		c.command(t, "conntrack", "-F") // what was opened untranslated stays so
	}
}

// knock opens connections as fast as it can, and waits for no answer, until the
// function that it returns is called, or the test ends, or a capture could lose some.
func knock(t *testing.T, n *nettest.Namespace) (stop func()) {
	t.Helper()
	stopped, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		n.Do(t, func() {
			for range 3000 {
				select {
				case <-stopped:
					return
				default:
				}
				for _, server := range []string{nettest.ServerAskIPv4, nettest.ServerAskIPv6} {
					if conn, err := net.Dial("udp", server); err == nil {
						_, _ = conn.Write([]byte("?"))
						conn.Close()
					}
				}
			}
		})
	}()
	stop = sync.OnceFunc(func() { close(stopped); <-done })
	t.Cleanup(stop)
	return stop
}
