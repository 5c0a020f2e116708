package integration

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
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

// TestFlushBesideWatcher: as long as the watcher runs, nothing of a pod leaves with a wrong source by its own link either,
// when somebody flushes nftables, whatever is under way at that instant, and until the table has been written again.
func TestFlushBesideWatcher(t *testing.T) {
	t.Parallel()
	seed := newSeed(t)
	s := newStricken(t, nil, nil)
	b := newBattle(t, s, seed)
	b.watcher = startWatcher(t, s.Node)
	startSending(t, b.cluster, b.senders...)
	b.awaitRight(t)
	site := filepath.Join(t.TempDir(), "site.nft")
	require.NoError(t, os.WriteFile(site, []byte("flush ruleset\n"+masquerading), 0o600))
	for range 3 { // oftener, and the watcher would look less often
		b.command(t, "nft", "-f", site)
		b.pause()
		b.command(t, "nft", "flush", "ruleset")
		b.pause()
		b.command(t, "nft", "-f", site)
		b.awaitRight(t)
		b.judge(t, "nftables flushed", nil)
	}
	require.Eventually(t, func() bool { out, _ := b.quietly(t, "resync"); return out == "nothing to do\n" }, waitFor, 100*time.Millisecond)
	for _, d := range s.tenants {
		d.del(t)
	}
	require.Eventually(t, func() bool { return !strings.Contains(b.command(t, "nft", "list", "tables"), "egress_ip_held") }, waitFor, tick)
	b.watcher.end(t, unix.SIGTERM)
}

// TestRulesDeletedAndFlushed: somebody deletes the source rules and flushes nftables, and the watcher has not come to
// it yet. A pod does not leave by the primary link, but it reaches the cluster.
func TestRulesDeletedAndFlushed(t *testing.T) {
	t.Parallel()
	derived := egressIP(object{"clusterCIDRs": []string{}})
	for name, newPod := range map[string]func(t *testing.T, c *cluster) *nettest.Namespace{
		"cluster networks configured": func(t *testing.T, c *cluster) *nettest.Namespace {
			d := c.newDirect(t, "pod", pod4, pod6, egressIP(nil))
			d.add(t, both)
			return d.Namespace
		},
		"not configured": func(t *testing.T, c *cluster) *nettest.Namespace {
			d := c.newDirect(t, "pod", pod4, pod6, derived)
			d.add(t, both)
			return d.Namespace
		},
		"bridge": func(t *testing.T, c *cluster) *nettest.Namespace {
			c.configure(t, "1.0.0", bridge(t, "nftables"), egressIP(nil))
			return c.add(t, both).Namespace
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := &guarded{cluster: newNode(t)}
			g.addOtherNode(t, nettest.PrimaryLink)
			attached := newPod(t, g.cluster)
			(&pod{Namespace: attached}).requireSeen(t, egress4, egress6)
			w := startWatcher(t, g.Node)
			require.Eventually(t, func() bool { return strings.Contains(g.command(t, "nft", "list", "tables"), "egress_ip_held") }, waitFor, tick)
			require.NoError(t, w.Process.Signal(unix.SIGSTOP))
			g.countSources(t)

			deleteRules(5998, 6001)(t, g.cluster)
			g.command(t, "nft", "flush", "ruleset")
			g.masquerade(t)
			answered(attached, "udp", "tcp") // whether or not anybody does
			require.Subset(t, rightSources, g.sources(t))
			for _, other := range []string{otherPod4, otherPod6} {
				_, err := attached.Ask("udp", net.JoinHostPort(other, strconv.Itoa(nettest.WhoAmIPort)))
				require.NoError(t, err)
			}

			require.NoError(t, w.Process.Signal(unix.SIGCONT))
			require.Eventually(t, func() bool { out, _ := g.quietly(t, "resync"); return out == "nothing to do\n" }, waitFor, 100*time.Millisecond)
			(&pod{Namespace: attached}).requireSeen(t, egress4, egress6)
			w.end(t, unix.SIGTERM)
		})
	}
}

// TestPodInThePlaceOfAnother: the watcher has not heard yet that a pod address, or its egress address, is another pod's now.
func TestPodInThePlaceOfAnother(t *testing.T) {
	t.Parallel()
	c := newNode(t)
	c.masquerade(t)
	pod := c.newDirect(t, "first", "10.244.1.5", "fd00:10:244::5", egressIP(nil))
	pod.add(t, both)
	w := startWatcher(t, c.Node)
	pod.requireSeen(t, egress4, egress6)
	require.NoError(t, w.Process.Signal(unix.SIGSTOP))
	for i, next := range []struct {
		annotations annotations
		ipv4, ipv6  string
	}{
		{address(other4 + "," + other6), other4, other6},
		{nil, nettest.PrimaryIPv4, nettest.PrimaryIPv6},
		{both, egress4, egress6},
	} {
		pod.del(t)
		pod.die(t)
		pod = c.newDirect(t, fmt.Sprint("next", i), "10.244.1.5", "fd00:10:244::5", egressIP(nil))
		pod.add(t, next.annotations)
		pod.requireSeen(t, next.ipv4, next.ipv6)
	}
	require.NoError(t, w.Process.Signal(unix.SIGCONT))
	w.end(t, unix.SIGTERM)
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
