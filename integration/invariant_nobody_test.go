package integration

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/egress-ip/egress-ip/pkg/record"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// nobody is a thread of uid 65534 in the node's network namespace, as any hostNetwork pod may have
// one. It locks whatever it can open, again and again, and takes names of abstract sockets.
type nobody struct {
	stop   chan struct{}
	done   sync.WaitGroup
	locked atomic.Bool // the namespace
	rounds atomic.Int64
}

// abstractNames are those that the program may have in its text, where one string follows the other.
var abstractNames = regexp.MustCompile(`@egress-ip/[a-z0-9-]+`)

func startNobody(t *testing.T, c *cluster) *nobody {
	t.Helper()
	program, err := os.ReadFile(filepath.Join(bin, "egress-ip"))
	require.NoError(t, err)
	var names []string
	for _, name := range abstractNames.FindAll(program, -1) {
		for end := len("@egress-ip/") + 1; end <= min(len(name), 40); end++ {
			names = append(names, string(name[:end]))
		}
	}
	names = append(names, "@egress-ip", "@egress-ip/lock", "@egress-ip/watch", "@egress-ip/resync", "@egress-ip/install")
	slices.Sort(names)
	netns, err := unix.Open(c.Node.Path(), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	require.NoError(t, err)
	defer unix.Close(netns)
	n := &nobody{stop: make(chan struct{})}
	become := make(chan error)
	places := []string{record.Root, c.recordDir(t)}
	n.done.Go(func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		err := unix.Setns(netns, unix.CLONE_NEWNET)
		for _, call := range [][4]uintptr{{unix.SYS_SETGROUPS}, {unix.SYS_SETRESGID, 65534, 65534, 65534}, {unix.SYS_SETRESUID, 65534, 65534, 65534}} {
			if _, _, errno := unix.RawSyscall(call[0], call[1], call[2], call[3]); err == nil && errno != 0 { // of this thread alone
				err = errno
			}
		}
		become <- err
		if err == nil {
			n.grab(slices.Compact(names), places)
		}
	})
	require.NoError(t, <-become)
	require.Eventually(t, func() bool { return n.rounds.Load() > 1 }, waitFor, tick)
	t.Cleanup(n.end)
	return n
}

func (n *nobody) end() {
	select {
	case <-n.stop:
	default:
		close(n.stop)
	}
	n.done.Wait()
}

// grab does its worst until it is stopped.
func (n *nobody) grab(names, places []string) {
	held := map[string]int{}
	defer func() {
		for _, fd := range held {
			unix.Close(fd)
		}
	}()
	tooLong := time.After(3 * waitFor) // whoever waits for it goes on then, and the test fails
	for {
		for _, name := range names {
			for _, socketType := range []int{unix.SOCK_STREAM, unix.SOCK_DGRAM, unix.SOCK_SEQPACKET} {
				key := name + string(rune('0'+socketType))
				if _, have := held[key]; have {
					continue
				}
				fd, err := unix.Socket(unix.AF_UNIX, socketType|unix.SOCK_CLOEXEC, 0)
				if err != nil {
					continue
				}
				if unix.Bind(fd, &unix.SockaddrUnix{Name: name}) != nil {
					unix.Close(fd)
					continue
				}
				held[key] = fd
			}
		}
		for _, path := range reachable(places) {
			if _, have := held[path]; have {
				continue
			}
			fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
			if err != nil {
				continue
			}
			if unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB) != nil {
				unix.Close(fd)
				continue
			}
			held[path] = fd
			if path == "/proc/thread-self/ns/net" {
				n.locked.Store(true)
			}
		}
		n.rounds.Add(1)
		select {
		case <-n.stop:
			return
		case <-tooLong:
			return
		case <-time.After(time.Millisecond):
		}
	}
}

// reachable are the namespaces, and what is of egress-ip's and can be found.
func reachable(places []string) []string {
	all := []string{"/proc/thread-self/net", "/proc/thread-self", "/proc/self", "/proc/net", "/proc/sys/net"}
	for _, namespace := range []string{"net", "mnt", "ipc", "pid", "uts", "user", "cgroup"} { // nobody may list that directory
		all = append(all, "/proc/thread-self/ns/"+namespace)
	}
	for _, place := range places {
		beside, _ := filepath.Glob(place + ".*")
		all = append(append(all, place), beside...)
		_ = filepath.WalkDir(place, func(path string, _ fs.DirEntry, err error) error {
			if err == nil && len(path) > len(record.Root) && place != record.Root {
				all = append(all, path)
			}
			return nil
		})
	}
	return all
}

// TestInvariant3NobodyWithoutRootCanBlock attacks: uid 65534 in the node's network namespace holds a lock on each file that it can open, its
// namespaces above all, and the names of abstract sockets, before and while egress-ip works. Every verb and every command
// goes on, none waits, and the watcher heals.
func TestInvariant3NobodyWithoutRootCanBlock(t *testing.T) {
	t.Parallel()
	for name, first := range map[string]bool{"before the first pod": true, "beside pods and a watcher": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newNode(t)
			d := c.newDirect(t, "pod", "10.244.1.5", "fd00:10:244::5", egressIP(nil))
			other := c.newDirect(t, "other", "10.244.1.6", "fd00:10:244::6", egressIP(nil))
			plain := c.newDirect(t, "plain", "10.244.1.7", "fd00:10:244::7", egressIP(nil))
			var w *watcher
			if !first {
				other.add(t, others)
				w = startWatcher(t, c.Node)
			}
			n := startNobody(t, c)
			require.True(t, n.locked.Load(), "not even the network namespace could be locked")
			if first {
				within(t, func() { w = startWatcher(t, c.Node) })
			}
			within(t, func() { d.add(t, both) })
			within(t, func() { plain.add(t, nil) })
			within(t, func() {
				_, err := d.call(t, "CHECK", both)
				require.NoError(t, err)
			})
			d.requireSeen(t, egress4, egress6)
			for _, command := range [][]string{{"status"}, {"explain", "10.244.1.5"}, {"resync"}} {
				within(t, func() {
					out, exit := c.quietly(t, command...)
					require.Zero(t, exit, "%s: %s", command, out)
				})
			}
			within(t, func() {
				c.command(t, "nft", "delete", "table", "inet", "egress_ip")
				require.Eventually(t, func() bool { _, exit := c.quietly(t, "status"); return exit == 0 }, waitFor, tick)
			})
			d.requireSeen(t, egress4, egress6)
			within(t, func() {
				_, err := c.plugin(call{command: "GC", stdin: gcStdin(t, "net", object{
					"cni.dev/valid-attachments": []object{{"containerID": "pod", "ifname": "eth0"}, {"containerID": "plain", "ifname": "eth0"}},
				})})
				require.NoError(t, err)
			})
			within(t, func() { d.del(t); plain.del(t) })
			within(t, func() { w.end(t, unix.SIGTERM) })
			within(t, func() { startWatcher(t, c.Node).end(t, unix.SIGTERM) })
			within(t, func() {
				out, exit := c.quietly(t, "cleanup", "--force")
				require.Zero(t, exit, out)
			})
			n.end()
		})
	}
}

// within does something that must not wait for anybody.
func within(t *testing.T, do func()) {
	t.Helper()
	begun := time.Now()
	do()
	require.Less(t, time.Since(begun), nettest.Within(5*time.Second))
}
