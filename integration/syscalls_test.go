package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
)

// work is what a call asks of the kernel, from where it has read its stdin.
type work struct {
	calls    int // system calls; those of Go's runtime aside
	messages int // sent to netlink, a batch being one
}

// TestSystemCalls: a call asks no more of the kernel than it did when these numbers
// were written down. Times differ from machine to machine; these do not. Who makes
// a call do less, writes the new numbers here.
func TestSystemCalls(t *testing.T) {
	t.Parallel()
	c := newCluster(t, nettest.LabOptions{SecondDefault: true}, "1.1.0")
	stands := c.newDirect(t, "stands", "10.244.1.6", "fd00:10:244::6", egressIP(nil))
	stands.add(t, address(egress4))
	d := c.newDirect(t, "pod", "10.244.1.5", "fd00:10:244::5", egressIP(nil))
	for _, step := range []struct {
		name, command string
		annotations   annotations
		most          work
	}{
		{"ADD of a plain pod", "ADD", nil, work{59, 4}},
		{"DEL of a plain pod", "DEL", nil, work{18, 0}},
		{"ADD of an annotated pod, not the first on its link", "ADD", address(egress4), work{394, 77}},
		{"CHECK of an annotated pod", "CHECK", address(egress4), work{201, 41}},
		{"DEL of an annotated pod, not the last on its link", "DEL", address(egress4), work{91, 11}},
	} {
		did, trace := d.traced(t, step.command, step.annotations)
		t.Logf("%s: %+v", step.name, did)
		require.LessOrEqual(t, did.calls, step.most.calls, "%s: system calls:\n%s", step.name, trace)
		require.LessOrEqual(t, did.messages, step.most.messages, "%s: messages to netlink:\n%s", step.name, trace)
	}
}

// ofRuntime are the system calls that Go's runtime makes, and how often depends on
// when its threads run (two of them: how many processors there are now).
var ofRuntime = []string{
	"clone", "clone3", "epoll_create1", "epoll_ctl", "epoll_pwait", "eventfd2", "exit", "exit_group", "fcntl", "futex",
	"getpid", "gettid", "madvise", "mmap", "munmap", "nanosleep", "pread64", "pselect6", "restart_syscall", "rt_sigaction",
	"rt_sigprocmask", "rt_sigreturn", "sched_getaffinity", "sched_yield", "sigaltstack", "tgkill",
}

// traced makes a call below strace. The trace has a line a system call, without
// those that came to nothing because their socket had nothing yet.
func (d *direct) traced(t *testing.T, command string, a annotations) (work, string) {
	t.Helper()
	out := filepath.Join(t.TempDir(), "trace")
	plugin := pluginCommand(call{
		command: command, containerID: d.id, netns: d.Path(),
		stdin: request(t, d.entry, a, d.addresses...), args: "K8S_POD_NAMESPACE=payments;K8S_POD_NAME=pod",
	})
	cmd := exec.Command("strace", "-f", "-qq", "-o", out, "-e", "trace=!"+strings.Join(ofRuntime, ","), plugin.Path)
	cmd.Env, cmd.Stdin, cmd.Stderr = plugin.Env, plugin.Stdin, os.Stderr
	require.NoError(t, d.cluster.Node.Run(cmd))
	text, err := os.ReadFile(out)
	require.NoError(t, err)

	lines := strings.Split(string(text), "\n")
	begin := slices.IndexFunc(lines, func(l string) bool { return strings.Contains(l, "memfd_create(") })
	require.Positive(t, begin, "the trace has no beginning:\n%s", text)
	var did work
	var trace []string
	name := regexp.MustCompile(`^\d+ +(\w+)\(`)
	for _, line := range lines[begin:] {
		called := name.FindStringSubmatch(line) // a line of the second half of a call has none
		if strings.Contains(line, "EAGAIN") {
			if called == nil {
				did.calls-- // its first half has been counted
			}
			continue
		}
		if called == nil {
			continue
		}
		trace = append(trace, line)
		did.calls++
		if called[1] == "sendto" || called[1] == "sendmsg" {
			did.messages++
		}
	}
	return did, strings.Join(trace, "\n")
}
