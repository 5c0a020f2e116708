package integration

import (
	"net"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// cpuOf runs a command of the binary on the node, and returns the CPU that it took.
func (c *cluster) cpuOf(tb testing.TB, args ...string) time.Duration {
	tb.Helper()
	cmd := exec.Command(filepath.Join(bin, "egress-ip"), args...)
	require.NoError(tb, c.Node.Run(cmd))
	return cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
}

// raze takes all of egress-ip's out of the node's kernel.
func (c *cluster) raze(tb testing.TB) {
	tb.Helper()
	c.command(tb, "nft", "flush", "ruleset")
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		rules, err := c.Node.Netlink().RuleList(family)
		require.NoError(tb, err)
		for _, r := range rules {
			if r.Priority >= 5998 && r.Priority <= 6001 {
				require.NoError(tb, c.Node.Netlink().RuleDel(&r))
			}
		}
	}
	table := c.table(tb)
	for _, family := range []string{"-4", "-6"} {
		// It fails where the family has no such table.
		_ = c.Node.Run(exec.Command("ip", family, "route", "flush", "table", table))
	}
	link := c.Node.Link(tb, nettest.SecondLink)
	addresses, err := c.Node.Netlink().AddrList(link, netlink.FAMILY_ALL)
	require.NoError(tb, err)
	for _, a := range addresses {
		if ones, bits := a.Mask.Size(); ones == bits {
			require.NoError(tb, c.Node.Netlink().AddrDel(link, &a))
		}
	}
}

// addNumbered adds that many numbered pods.
func (c *cluster) addNumbered(tb testing.TB, pods int, families ...int) {
	tb.Helper()
	sandbox := nettest.New(tb, "sandbox").Path()
	require.Empty(tb, each(0, pods, runtime.NumCPU(), func(n int) error {
		_, err := c.plugin(numbered(tb, "ADD", sandbox, n, families...))
		return err
	}))
}

// TestResyncMany: more pods than one transaction writes come back as they were.
func TestResyncMany(t *testing.T) {
	t.Parallel()
	c := newNode(t)
	c.addNumbered(t, 130, 4, 6)
	before, rest := objects(c.state(t))
	c.raze(t)
	_, exit := c.egressIP(t, "resync")
	require.Zero(t, exit)
	after, restAfter := objects(c.state(t))
	require.Equal(t, before, after)
	require.Equal(t, rest, restAfter)
	out, _ := c.egressIP(t, "resync")
	require.Equal(t, "nothing to do\n", out)
}

// BenchmarkResync says how much CPU a resync of 1,000 pods takes when there is nothing
// to do, and when the kernel has nothing of them; and, in the same run, as how many
// ADDs that is.
func BenchmarkResync(b *testing.B) {
	b.Run("IPv4", func(b *testing.B) { benchmarkResync(b, 4) })
	b.Run("dual-stack", func(b *testing.B) { benchmarkResync(b, 4, 6) })
}

func benchmarkResync(b *testing.B, families ...int) {
	const pods = 1000
	c := newNode(b)
	c.addNumbered(b, pods, families...)
	sandbox := nettest.New(b, "sandbox").Path()
	var nothing, everything, add time.Duration
	for b.Loop() {
		nothing += c.cpuOf(b, "resync")
		c.raze(b)
		everything += c.cpuOf(b, "resync")
		cmd := pluginCommand(numbered(b, "ADD", sandbox, pods, families...))
		require.NoError(b, c.Node.Run(cmd))
		add += cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
		_, err := c.plugin(numbered(b, "DEL", sandbox, pods, families...))
		require.NoError(b, err)
	}
	n := float64(b.N)
	b.ReportMetric(nothing.Seconds()*1e3/n, "ms-CPU/nothing-to-do")
	b.ReportMetric(everything.Seconds()*1e3/n, "ms-CPU/everything-to-do")
	b.ReportMetric(add.Seconds()*1e3/n, "ms-CPU/ADD")
	b.ReportMetric(everything.Seconds()/add.Seconds(), "ADDs/everything-to-do")
}

// BenchmarkHeal says how long it takes the watcher, from the end of a disaster to
// the pod's first answer that comes from its egress address; and, in the same run,
// how long a DEL and an ADD of the pod take, which is what else would help.
func BenchmarkHeal(b *testing.B) {
	for _, disaster := range []struct {
		name string
		do   func(c *cluster)
	}{
		{"nft flush ruleset", func(c *cluster) { c.command(b, "nft", "flush", "ruleset") }},
		{"table flushed", func(c *cluster) { c.command(b, "ip", "route", "flush", "table", c.table(b)) }},
		{"link down and up", func(c *cluster) {
			c.command(b, "ip", "link", "set", nettest.SecondLink, "down")
			c.command(b, "ip", "link", "set", nettest.SecondLink, "up")
			c.command(b, "ip", "route", "replace", "default", "via", nettest.SecondGatewayIPv4, "metric", "200")
		}},
		{"everything", func(c *cluster) { c.raze(b) }},
	} {
		b.Run(disaster.name, func(b *testing.B) {
			c := newCluster(b, nettest.LabOptions{SecondDefault: true}, "1.0.0")
			d := c.newDirect(b, "pod", "10.244.1.5", "fd00:10:244::5", egressIP(nil))
			d.add(b, address(egress4))
			startWatcher(b, c.Node)
			var healed, anew time.Duration
			for b.Loop() {
				begin := time.Now()
				d.del(b)
				d.add(b, address(egress4))
				anew += time.Since(begin)
				d.untilSeen(b, egress4)
				disaster.do(c)
				begin = time.Now()
				d.untilSeen(b, egress4)
				healed += time.Since(begin)
			}
			b.ReportMetric(healed.Seconds()*1e3/float64(b.N), "ms/heal")
			b.ReportMetric(anew.Seconds()*1e3/float64(b.N), "ms/DEL+ADD")
			b.ReportMetric(healed.Seconds()/anew.Seconds(), "times-DEL+ADD")
		})
	}
}

// untilSeen asks every few milliseconds, each time from another port, until the
// server has seen this address twice running.
func (d *direct) untilSeen(tb testing.TB, address string) {
	tb.Helper()
	deadline := time.Now().Add(waitFor)
	d.Do(tb, func() {
		answer := make([]byte, 64)
		for seen := 0; seen < 2; {
			require.True(tb, time.Now().Before(deadline), "no answer from %s", address)
			conn, err := net.Dial("udp", nettest.ServerAskIPv4)
			require.NoError(tb, err)
			_, _ = conn.Write([]byte("?")) // refused while closed
			_ = conn.SetReadDeadline(time.Now().Add(5 * time.Millisecond))
			n, err := conn.Read(answer)
			conn.Close()
			if err != nil || string(answer[:n]) != address {
				seen = 0
				if err != nil {
					time.Sleep(time.Millisecond)
				}
				continue
			}
			seen++
		}
	})
}
