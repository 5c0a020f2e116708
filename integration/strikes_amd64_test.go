package integration

import (
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// verb is a call of the program that is struck at each of its system calls in turn.
type verb struct {
	before  func(t *testing.T) // makes the node what each call finds
	command *exec.Cmd
	stdin   string
	// done checks the node after a call that has said that it has succeeded.
	done func(t *testing.T) error
	// repair is what a runtime or a person does after a call that has not: the node must then be as
	// done wants it, or for an ADD as it was before. It is what done checks that counts.
	repair func(t *testing.T) error
	reset  func(t *testing.T) // makes the node usable again after a failed check
	every  bool               // strike at each system call; otherwise at some, in turns
}

// errorsOf are those that the kernel can give for a system call.
func errorsOf(call uint64) []unix.Errno {
	switch call {
	case unix.SYS_SENDTO:
		return []unix.Errno{unix.ENOBUFS, unix.EPERM, unix.ENOMEM, unix.EINTR}
	case unix.SYS_RECVFROM:
		return []unix.Errno{unix.ENOBUFS, unix.EINTR, unix.ENOMEM}
	case unix.SYS_SENDMSG: // of sockets that do not block, so no signal interrupts it
		return []unix.Errno{unix.ENOBUFS, unix.EPERM, unix.ENOMEM}
	case unix.SYS_RECVMSG:
		return []unix.Errno{unix.ENOBUFS, unix.ENOMEM}
	case unix.SYS_SOCKET:
		return []unix.Errno{unix.EMFILE, unix.ENOMEM, unix.EPERM}
	case unix.SYS_OPENAT:
		return []unix.Errno{unix.EIO, unix.EMFILE, unix.EPERM, unix.EINTR}
	case unix.SYS_READ, unix.SYS_PREAD64:
		return []unix.Errno{unix.EIO, unix.EINTR}
	case unix.SYS_WRITE, unix.SYS_PWRITE64:
		return []unix.Errno{unix.EIO, unix.ENOSPC, unix.EINTR}
	case unix.SYS_MKDIRAT, unix.SYS_SYMLINKAT, unix.SYS_RENAMEAT, unix.SYS_RENAMEAT2, unix.SYS_UNLINKAT:
		return []unix.Errno{unix.EIO, unix.ENOSPC, unix.EROFS, unix.EPERM}
	case unix.SYS_FLOCK:
		return []unix.Errno{unix.ENOLCK, unix.EINTR}
	case unix.SYS_BIND, unix.SYS_SETSOCKOPT, unix.SYS_GETSOCKOPT, unix.SYS_CONNECT:
		return []unix.Errno{unix.ENOMEM, unix.EPERM}
	}
	return []unix.Errno{unix.EIO}
}

// seedFlag makes a test with random choices do the same again.
var seedFlag = flag.Uint64("seed", 0, "of tests with random choices, as one has logged it (after -args)")

func newSeed(t *testing.T) uint64 {
	t.Helper()
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("seed %d", seed)
	return seed
}

// everyFlag makes the whole sweep, which takes some five minutes more.
var everyFlag = flag.Bool("every", false, "strike every verb at each of its system calls (after -args)")

// some is how often a verb is struck that is not struck everywhere.
const some = 40

// sweep strikes a verb at one system call after the other, until a call ends before it comes to that.
func (v verb) sweep(t *testing.T, n *nettest.Namespace, kill bool) {
	t.Helper()
	seed := newSeed(t)
	error := func(call uint64) unix.Errno {
		if kill {
			return 0
		}
		all := errorsOf(call)
		return all[seed%uint64(len(all))]
	}
	step, at := 1, 1
	if !v.every && !*everyFlag {
		v.before(t)
		calls := strike{at: -1}.run(t, n, v.command, v.stdin).calls
		require.NoError(t, v.done(t))
		step = max(1, calls/some)
		at += int(seed % uint64(step))
	}
	strikes, succeeded, bad := 0, 0, 0
	for ; ; at += step {
		v.before(t)
		result := strike{at, error}.run(t, n, v.command, v.stdin)
		err := v.judge(t, result)
		if err != nil {
			t.Errorf("%s\n%v", result, err)
			bad++
			require.Less(t, bad, 20, "too many")
			v.reset(t)
		}
		if result.call == "" {
			break
		}
		strikes++
		if result.succeeded() {
			succeeded++
		}
	}
	t.Logf("struck %d times, up to call %d; %d had succeeded all the same", strikes, at-1, succeeded)
	require.Greater(t, strikes, succeeded)
}

// judge looks at the node after a call.
func (v verb) judge(t *testing.T, result struck) error {
	t.Helper()
	if !result.succeeded() {
		if result.call == "" {
			return fmt.Errorf("it failed without being struck")
		}
		return v.repair(t)
	}
	if err := v.done(t); err != nil {
		return fmt.Errorf("it said that it had succeeded: %w", err)
	}
	return nil
}

// struckNode is a node with the states that its verbs are to leave.
type struckNode struct {
	*cluster
	empty, attached string // its state without the pod and with it
	add             call
	live            *direct
	kill            bool // or errors: then directories of the record do not count; one that could not be removed is no harm
}

// newStruckNode makes one; with a live pod, that shares the pod's link and addresses, or alone.
func newStruckNode(t *testing.T, live, kill bool) *struckNode {
	t.Helper()
	s := &struckNode{cluster: newNode(t), kill: kill}
	sandbox := nettest.New(t, "sandbox").Path()
	entry := egressIP(object{"probeSNAT": object{"mode": "never"}})
	entry["links"].([]object)[0]["duplicateCheck"] = false
	if live {
		s.live = s.newDirect(t, "live", "10.244.1.2", "fd00:10:244::2", entry)
		s.live.add(t, both)
	}
	s.add = call{
		"ADD", "struck", sandbox, request(t, entry, both, "10.244.2.1", "fd00:10:244::2:1"),
		"K8S_POD_NAMESPACE=payments;K8S_POD_NAME=pod",
	}
	s.empty = s.look(t)
	s.attach(t)
	s.attached = s.look(t)
	require.NoError(t, s.bareDel("struck"))
	require.NoError(t, s.is(t, s.empty))
	return s
}

// look is the node's state, and its settings.
func (s *struckNode) look(t *testing.T) string {
	t.Helper()
	var settings strings.Builder
	s.Node.Do(t, func() {
		files, err := filepath.Glob("/proc/sys/net/ipv4/conf/*/src_valid_mark")
		require.NoError(t, err)
		for _, file := range files {
			value, err := os.ReadFile(file)
			require.NoError(t, err)
			fmt.Fprintf(&settings, "%s %s", file, value)
		}
	})
	state, recorded, _ := strings.Cut(s.state(t), "# record\n")
	for name := range strings.Lines(recorded) {
		info, err := os.Lstat(filepath.Join(s.recordDir(t), strings.TrimSpace(name)))
		if err == nil && (s.kill || !info.IsDir()) {
			state += name
		}
	}
	return state + "\n# settings\n" + settings.String()
}

func (s *struckNode) is(t *testing.T, want string) error {
	t.Helper()
	return sameText(want, s.look(t))
}

// sameText says which lines differ.
func sameText(want, have string) error {
	if want == have {
		return nil
	}
	count := map[string]int{}
	for line := range strings.Lines(want) {
		count[line]--
	}
	for line := range strings.Lines(have) {
		count[line]++
	}
	var b strings.Builder
	for line := range strings.Lines(want) {
		if count[line] < 0 {
			fmt.Fprintf(&b, "- %s", line)
		}
	}
	for line := range strings.Lines(have) {
		if count[line] > 0 {
			fmt.Fprintf(&b, "+ %s", line)
		}
	}
	return fmt.Errorf("the node is not as it is to be:\n%s", &b)
}

func (s *struckNode) attach(t *testing.T) {
	t.Helper()
	_, err := s.plugin(s.add)
	require.NoError(t, err)
}

// reset begins again.
func (s *struckNode) reset(t *testing.T) {
	t.Helper()
	s.egressIP(t, "cleanup", "--force")
	for _, address := range []string{egress4 + "/32", egress6 + "/128"} { // if one has been forgotten
		_ = s.Node.Run(exec.Command("ip", "address", "del", address, "dev", nettest.SecondLink))
	}
	if s.live != nil {
		s.live.add(t, both)
	}
}

func nothing(*testing.T) {}

// TestStruck strikes calls of the program, at one of their system calls after the other, with SIGKILL or with an
// error of that system call. A call that says that it has succeeded has done all its work. After one that
// does not, what a runtime or a person does next leaves the node as if nothing had happened. Meanwhile a pod on the
// same link with the same egress addresses never loses its path.
func TestStruck(t *testing.T) {
	t.Parallel()
	for name, make := range map[string]func(t *testing.T, kill bool) (verb, *nettest.Namespace){
		"ADD beside a live pod": struckWith((*struckNode).struckAdd, true),
		"ADD of the first pod":  struckWith((*struckNode).struckAdd, false),
		"DEL beside a live pod": struckWith((*struckNode).struckDel, true),
		"DEL of the last pod":   struckWith((*struckNode).struckDel, false),
		"GC beside a live pod":  struckWith((*struckNode).struckGC, true),
		"resync":                struckWith((*struckNode).struckResync, true),
		"cleanup":               struckWith((*struckNode).struckCleanup, false),
		"install":               struckInstall,
		"uninstall":             struckUninstall,
	} {
		for how, kill := range map[string]bool{"killed": true, "error": false} {
			t.Run(name+", "+how, func(t *testing.T) {
				t.Parallel()
				v, n := make(t, kill)
				v.sweep(t, n, kill)
			})
		}
	}
}

// struckWith makes a node for a verb, with a live pod or without.
func struckWith(make func(*struckNode, *testing.T) (verb, *nettest.Namespace), live bool) func(*testing.T, bool) (verb, *nettest.Namespace) {
	return func(t *testing.T, kill bool) (verb, *nettest.Namespace) { return make(newStruckNode(t, live, kill), t) }
}

// keepLiveAsking has the live pod ask all the while, slowly.
func (s *struckNode) keepLiveAsking(t *testing.T) {
	t.Helper()
	if s.live == nil {
		return
	}
	a := &asking{stop: make(chan struct{})}
	for server, want := range map[string]string{nettest.ServerAskIPv4: egress4, nettest.ServerAskIPv6: egress6} {
		for _, network := range []string{"udp", "tcp"} {
			a.every(20*time.Millisecond, want, func() (string, error) {
				saw, err := s.live.Ask(network, server)
				return saw.String(), err
			})
		}
	}
	t.Cleanup(func() { a.requireAll(t) })
}

func (s *struckNode) struckAdd(t *testing.T) (verb, *nettest.Namespace) {
	s.keepLiveAsking(t)
	del := func(t *testing.T) error {
		if err := s.bareDel("struck"); err != nil {
			return fmt.Errorf("DEL: %w", err)
		}
		return s.is(t, s.empty)
	}
	return verb{
		before: nothing, command: pluginCommand(s.add), stdin: s.add.stdin, reset: s.reset,
		every: s.kill || s.live == nil, // the first pod's ADD makes all calls that a later one does
		done: func(t *testing.T) error {
			check := s.add
			check.command = "CHECK"
			if _, err := s.plugin(check); err != nil {
				return fmt.Errorf("CHECK: %w", err)
			}
			if err := s.is(t, s.attached); err != nil {
				return err
			}
			return del(t)
		},
		repair: del,
	}, s.Node
}

func (s *struckNode) struckDel(t *testing.T) (verb, *nettest.Namespace) {
	s.keepLiveAsking(t)
	repairs := 0
	return verb{
		before: s.attach, command: pluginCommand(call{command: "DEL", containerID: "struck"}), reset: s.reset, every: true,
		done: func(t *testing.T) error { return s.is(t, s.empty) },
		repair: func(t *testing.T) error {
			// A resync that comes first, the watcher's say, finishes what has begun, and takes nothing back.
			if repairs++; repairs%4 == 0 && s.is(t, s.attached) != nil {
				if out, exit := s.quietly(t, "resync"); exit != 0 {
					return fmt.Errorf("resync: exit status %d: %s", exit, out)
				}
				if err := s.is(t, s.empty); err != nil {
					return fmt.Errorf("after a resync: %w", err)
				}
			}
			if err := s.bareDel("struck"); err != nil {
				return fmt.Errorf("DEL: %w", err)
			}
			return s.is(t, s.empty)
		},
	}, s.Node
}

func (s *struckNode) struckGC(t *testing.T) (verb, *nettest.Namespace) {
	s.keepLiveAsking(t)
	gc := call{command: "GC", stdin: gcStdin(t, "net", object{
		"cni.dev/valid-attachments": []object{{"containerID": "live", "ifname": "eth0"}},
	})}
	return verb{
		before: s.attach, command: pluginCommand(gc), stdin: gc.stdin, reset: s.reset,
		done: func(t *testing.T) error { return s.is(t, s.empty) },
		repair: func(t *testing.T) error {
			if _, err := s.plugin(gc); err != nil {
				return fmt.Errorf("GC: %w", err)
			}
			return s.is(t, s.empty)
		},
	}, s.Node
}

// struckResync: some of everything has been deleted. What opens connections meanwhile goes wrong, so nobody asks.
func (s *struckNode) struckResync(t *testing.T) (verb, *nettest.Namespace) {
	s.attach(t)
	table := s.table(t)
	destroy := strings.NewReplacer("TABLE", table).Replace(`
		nft delete table inet egress_ip; ip rule del pref 6000 from 10.244.2.1; ip -6 rule del pref 5999 iif lo
		ip route flush table TABLE; ip -6 route flush table TABLE; ip address del 192.168.124.99/32 dev enp7s0; true`)
	return verb{
		before:  func(t *testing.T) { s.command(t, "sh", "-c", destroy) },
		command: exec.Command(filepath.Join(bin, "egress-ip"), "resync"),
		reset:   func(t *testing.T) { s.reset(t); s.attach(t) },
		done:    func(t *testing.T) error { return s.is(t, s.attached) },
		repair: func(t *testing.T) error {
			if out, exit := s.quietly(t, "resync"); exit != 0 {
				return fmt.Errorf("resync: exit status %d: %s", exit, out)
			}
			return s.is(t, s.attached)
		},
	}, s.Node
}

func (s *struckNode) struckCleanup(t *testing.T) (verb, *nettest.Namespace) {
	return verb{
		before: s.attach, command: exec.Command(filepath.Join(bin, "egress-ip"), "cleanup", "--force"), reset: s.reset,
		done: func(t *testing.T) error { return s.is(t, s.empty) },
		repair: func(t *testing.T) error {
			if out, exit := s.quietly(t, "cleanup", "--force"); exit != 0 {
				return fmt.Errorf("cleanup: exit status %d: %s", exit, out)
			}
			return s.is(t, s.empty)
		},
	}, s.Node
}

// quietly runs a command of egress-ip's without logging it.
func (c *cluster) quietly(t testing.TB, args ...string) (out string, exit int) {
	t.Helper()
	var text strings.Builder
	cmd := exec.Command(filepath.Join(bin, "egress-ip"), args...)
	cmd.Stdout, cmd.Stderr = &text, &text
	_ = c.Node.Run(cmd) // its exit status says it
	return text.String(), cmd.ProcessState.ExitCode()
}

// texts is every file of an installation, with its mode; of the binary, whether it is whole.
func (n *aNode) texts(t *testing.T) string {
	t.Helper()
	whole, err := os.ReadFile(filepath.Join(bin, "egress-ip"))
	require.NoError(t, err)
	var b strings.Builder
	require.NoError(t, filepath.Walk(n.root, func(path string, info os.FileInfo, err error) error {
		require.NoError(t, err)
		fmt.Fprintln(&b, strings.TrimPrefix(path, n.root), info.Mode())
		if info.Mode().IsRegular() {
			text, err := os.ReadFile(path)
			require.NoError(t, err)
			if string(text) == string(whole) {
				text = []byte("the binary")
			}
			require.Less(t, len(text), 10000, "%s is a part of the binary", path)
			fmt.Fprintf(&b, "%s\n", text)
		}
		return nil
	}))
	return b.String()
}

// usable: the runtime's file can be read whatever has happened.
func (n *aNode) usable(t *testing.T) error {
	t.Helper()
	var list object
	if err := json.Unmarshal([]byte(n.read(t, "10-net.conflist")), &list); err != nil {
		return fmt.Errorf("the conflist: %w", err)
	}
	if _, err := os.Stat(n.binary()); err != nil && strings.Contains(n.read(t, "10-net.conflist"), "egress-ip") {
		return fmt.Errorf("the conflist names a plugin that does not exist: %w", err)
	}
	return nil
}

// struckInstallation returns a node, and the two states of its files.
func struckInstallation(t *testing.T) (n *aNode, installed, uninstalled string) {
	n = newInstallNode(t, map[string]string{"10-net.conflist": bridgeList})
	n.run(t, 0, "install")
	n.run(t, 0, "uninstall")
	uninstalled = n.texts(t)
	n.run(t, 0, "install")
	return n, n.texts(t), uninstalled
}

func struckInstall(t *testing.T, _ bool) (verb, *nettest.Namespace) {
	n, installed, uninstalled := struckInstallation(t)
	return n.struckAs(t, "install", "uninstall", installed, uninstalled), n.Namespace
}

func struckUninstall(t *testing.T, _ bool) (verb, *nettest.Namespace) {
	n, installed, uninstalled := struckInstallation(t)
	return n.struckAs(t, "uninstall", "install", uninstalled, installed), n.Namespace
}

// struckAs strikes one command; the other one takes back what it does.
func (n *aNode) struckAs(t *testing.T, command, other, done, before string) verb {
	run := func(command string) func(t *testing.T) { return func(t *testing.T) { n.run(t, 0, command) } }
	return verb{
		before:  func(t *testing.T) { n.run(t, 0, other); require.NoError(t, sameText(before, n.texts(t))) },
		command: exec.Command(filepath.Join(bin, "egress-ip"), n.args(command)...), reset: run(command), every: true,
		done: func(t *testing.T) error { return sameText(done, n.texts(t)) },
		repair: func(t *testing.T) error {
			if err := n.usable(t); err != nil {
				return err
			}
			n.run(t, 0, command)
			return sameText(done, n.texts(t))
		},
	}
}
