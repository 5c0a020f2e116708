package integration

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// watcher is `egress-ip resync --watch`, or `install --watch`, under way, with a service manager that listens.
type watcher struct {
	*exec.Cmd
	stderr bytes.Buffer

	mu     sync.Mutex
	states []string // what the manager was told
}

// startWatcher starts one and waits until it says that it is ready.
func startWatcher(t testing.TB, n *nettest.Namespace, env ...string) *watcher {
	t.Helper()
	return startKeeper(t, n, []string{"resync", "--watch"}, env...)
}

// startKeeper starts a command that goes on, and waits until it says that it is ready.
func startKeeper(t testing.TB, n *nettest.Namespace, args []string, env ...string) *watcher {
	t.Helper()
	removeLocksAfter(t, n)
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "notify"), Net: "unixgram"})
	require.NoError(t, err)
	t.Cleanup(func() { manager.Close() })
	w := &watcher{Cmd: exec.Command(filepath.Join(bin, "egress-ip"), args...)}
	w.Env = append(env, "NOTIFY_SOCKET="+manager.LocalAddr().String())
	w.Stderr = &w.stderr
	go w.listen(manager)
	require.NoError(t, n.Start(t, w.Cmd))
	w.awaitTold(t, "READY=1")
	return w
}

func (w *watcher) listen(manager *net.UnixConn) {
	state := make([]byte, 4096)
	for {
		n, err := manager.Read(state)
		if err != nil {
			return
		}
		w.mu.Lock()
		w.states = append(w.states, string(state[:n]))
		w.mu.Unlock()
	}
}

func (w *watcher) told() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.states)
}

func (w *watcher) awaitTold(t testing.TB, want ...string) {
	t.Helper()
	require.Eventually(t, func() bool {
		have := w.told()
		return len(have) >= len(want) && strings.Join(have[:len(want)], " ") == strings.Join(want, " ")
	}, waitFor, tick, "%v", want)
}

// end sends a signal and waits for the end, which must be an orderly one.
func (w *watcher) end(t testing.TB, signal os.Signal) {
	t.Helper()
	require.NoError(t, w.Process.Signal(signal))
	require.NoError(t, w.Wait(), w.stderr.String())
}

func TestWatchEndsInOrder(t *testing.T) {
	t.Parallel()
	for _, signal := range []os.Signal{unix.SIGTERM, unix.SIGINT} {
		t.Run(signal.String(), func(t *testing.T) {
			t.Parallel()
			w := startWatcher(t, nettest.New(t, "node"))
			w.end(t, signal)
			w.awaitTold(t, "READY=1", "STOPPING=1")
		})
	}
}

func TestWatchdogIsFed(t *testing.T) {
	t.Parallel()
	w := startWatcher(t, nettest.New(t, "node"), "WATCHDOG_USEC=20000")
	w.awaitTold(t, "READY=1", "WATCHDOG=1", "WATCHDOG=1", "WATCHDOG=1")
	w.end(t, unix.SIGTERM)
}

// TestWatchOnlyOne: a second one in the same network namespace is refused, and told
// who the first is, while that lives; a single resync, ADD and DEL are not.
func TestWatchOnlyOne(t *testing.T) {
	t.Parallel()
	c := newNode(t)
	first := startWatcher(t, c.Node)
	for _, tt := range []struct {
		command []string
		want    string
	}{
		{nil, fmt.Sprintf("process %d watches this network namespace already", first.Process.Pid)},
		{[]string{"unshare", "--pid", "--fork"}, "it cannot be seen from this PID namespace"},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), waitFor)
		defer cancel()
		command := append(tt.command, filepath.Join(bin, "egress-ip"), "resync", "--watch")
		second := exec.CommandContext(ctx, command[0], command[1:]...)
		var stderr bytes.Buffer
		second.Stderr = &stderr
		require.Error(t, c.Node.Run(second))
		require.Equal(t, 4, second.ProcessState.ExitCode())
		require.Contains(t, stderr.String(), tt.want)
	}

	elsewhere := startWatcher(t, nettest.New(t, "elsewhere"))
	elsewhere.end(t, unix.SIGTERM)
	d := c.newDirect(t, "pod", "10.244.1.5", "fd00:10:244::5", egressIP(nil))
	d.add(t, both)
	require.Equal(t, "nothing to do\n", c.command(t, filepath.Join(bin, "egress-ip"), "resync"))
	d.requireSeen(t, egress4, egress6)
	d.del(t)

	require.NoError(t, first.Process.Kill())
	require.Error(t, first.Wait())
	startWatcher(t, c.Node).end(t, unix.SIGTERM)
}

// TestWatchLooksAnyway: what the kernel tells nobody of is repaired too.
func TestWatchLooksAnyway(t *testing.T) {
	t.Parallel()
	c := newNode(t)
	d := c.newDirect(t, "pod", "10.244.1.5", "fd00:10:244::5", egressIP(nil))
	d.add(t, both)
	const sysctl = "net.ipv4.conf." + nettest.SecondLink + ".src_valid_mark"
	path := "/proc/sys/" + strings.ReplaceAll(sysctl, ".", "/")
	require.Equal(t, "1\n", c.command(t, "cat", path))
	w := startKeeper(t, c.Node, []string{"resync", "--watch", "--every", "1s"})
	c.Node.Sysctl(t, sysctl, "0")
	require.Eventually(t, func() bool { return c.command(t, "cat", path) == "1\n" }, waitFor, tick)
	w.end(t, unix.SIGTERM)
}

// TestWatchWithLittleSocketMemory: what a socket may have for its options before Linux 6.8
// is enough for the watcher.
func TestWatchWithLittleSocketMemory(t *testing.T) {
	t.Parallel()
	c := newNode(t)
	c.Node.Sysctl(t, "net.core.optmem_max", "20480")
	c.requireHealed(t)
}

// requireHealed: a watcher starts, and repairs what somebody deletes.
func (c *cluster) requireHealed(t *testing.T) {
	t.Helper()
	d := c.newDirect(t, "pod", "10.244.1.5", "fd00:10:244::5", egressIP(nil))
	d.add(t, both)
	w := startWatcher(t, c.Node)
	before := c.state(t)
	for _, deletion := range []string{"nft delete table inet egress_ip", "ip rule del pref 6000", "ip -6 route flush table " + c.table(t)} {
		c.command(t, "sh", "-ec", deletion)
		require.Eventually(t, func() bool { return c.state(t) == before }, waitFor, tick, deletion)
	}
	d.requireSeen(t, egress4, egress6)
	w.end(t, unix.SIGTERM)
}

// TestWatchIsIdle: as long as nothing happens the process does not run at all, not
// for a moment. Go's runtime itself looks around once a minute, not before.
func TestWatchIsIdle(t *testing.T) {
	t.Parallel()
	c := newNode(t)
	d := c.newDirect(t, "pod", "10.244.1.5", "fd00:10:244::5", egressIP(nil))
	d.add(t, both)
	w := startWatcher(t, c.Node)
	w.requireIdle(t)
	w.end(t, unix.SIGTERM)
}

// requireIdle: once it has come to rest, the process does not run for three seconds.
func (w *watcher) requireIdle(t *testing.T) {
	t.Helper()
	last, since := w.ran(t), time.Now()
	require.Eventually(t, func() bool {
		if now := w.ran(t); now != last {
			last, since = now, time.Now()
		}
		return time.Since(since) > time.Second
	}, waitFor, tick)
	time.Sleep(3 * time.Second)
	require.Equal(t, last, w.ran(t))
}

// ran is how long each thread of the process has run, in ns, and how often it
// has been given a CPU.
func (w *watcher) ran(t *testing.T) string {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", w.Process.Pid))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	var all strings.Builder
	for _, file := range files {
		stat, err := os.ReadFile(file)
		require.NoError(t, err)
		fields := strings.Fields(string(stat)) // run time, time in a queue, how often
		fmt.Fprintf(&all, "%s: %s %s\n", file, fields[0], fields[2])
	}
	return all.String()
}
