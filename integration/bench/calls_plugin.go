package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/egress-ip/egress-ip/pkg/nettest"
)

const (
	module  = "github.com/egress-ip/egress-ip"
	plugins = "github.com/containernetworking/plugins/plugins"
)

// buildPlugins builds what is called, all in the same way, into a directory that goes
// with the scope.
func buildPlugins(s *scope) (dir string) {
	dir, err := os.MkdirTemp("", "egress-ip-bench-")
	s.must(err)
	s.Cleanup(func() { _ = os.RemoveAll(dir) })
	s.must(buildInto(s, dir, ".",
		module+"/plugins/egress-ip", module+"/integration/bench/noop"))
	s.must(buildInto(s, dir, moduleIn(s, "integration/tools"),
		plugins+"/meta/portmap", plugins+"/meta/sbr", plugins+"/meta/bandwidth", plugins+"/meta/firewall", plugins+"/ipam/host-local"))
	return dir
}

// buildAWS builds AWS's plugin, which is of a Go module of its own: what it needs
// is none of egress-ip's.
func buildAWS(s *scope, dir string) error {
	return buildInto(s, dir, moduleIn(s, "integration/bench/egresscni"), "tool")
}

// moduleIn is where a module is that is below the plugin's.
func moduleIn(s *scope, below string) string {
	root, err := exec.CommandContext(s.ctx, "go", "list", "-m", "-f", "{{.Dir}}", module).Output()
	s.must(err)
	return filepath.Join(strings.TrimSpace(string(root)), below)
}

func buildInto(s *scope, dir, module string, packages ...string) error {
	cmd := exec.CommandContext(s.ctx, "go", append([]string{
		"build", "-C", module, "-trimpath", "-ldflags", "-s -w", "-o", dir + "/"}, packages...)...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", cmd, err, bytes.TrimSpace(out))
	}
	return nil
}

// call is one call of a plugin, as a runtime makes it.
type call struct {
	verb, container, netns, stdin string
}

func (c call) command(dir, plugin string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(dir, plugin))
	cmd.Env = []string{
		"CNI_COMMAND=" + c.verb, "CNI_CONTAINERID=" + c.container, "CNI_IFNAME=eth0", "CNI_NETNS=" + c.netns,
		"CNI_PATH=" + dir, "CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=payments;K8S_POD_NAME=shop;K8S_POD_INFRA_CONTAINER_ID=" + c.container,
		"PATH=" + os.Getenv("PATH"),
	}
	cmd.Stdin = strings.NewReader(c.stdin)
	return cmd
}

// cost of a call, of the programs that the plugin runs, too.
type cost struct {
	cpu, wall float64 // in milliseconds
}

// measure makes a call on a node.
func (c call) measure(n *nettest.Namespace, dir, plugin string) (cost, error) {
	cmd := c.command(dir, plugin)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	start := time.Now()
	err := n.Run(cmd)
	wall := time.Since(start)
	if err != nil {
		return cost{}, fmt.Errorf("%s of %s: %w: %s", c.verb, plugin, err, &out)
	}
	return cost{milliseconds(cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()), milliseconds(wall)}, nil
}

func milliseconds(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e6 }

// peak makes a call and returns how much memory the plugin itself had resident at
// the most, in KiB. It stops the plugin as it ends: what the kernel says behind
// that (ru_maxrss) has the memory of the process that started it, too. Seen is false
// where the kernel has not stopped it, though the call succeeded: where another thread
// than the first ends the process, that one is killed, and may not stop any more.
func (c call) peak(s *scope, n *nettest.Namespace, dir, plugin string) (kib float64, seen bool, err error) {
	cmd := c.command(dir, plugin)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Ptrace: true}
	n.Do(s, func() { // a thread of its own, as ptrace wants it
		if err = cmd.Start(); err != nil {
			return
		}
		kib, seen, err = peakOf(cmd.Process.Pid)
		// One that was not seen has been waited for.
		if ended := cmd.Wait(); err == nil && seen {
			err = ended
		}
	})
	if err != nil {
		return 0, false, fmt.Errorf("memory of %s of %s: %w: %s", c.verb, plugin, err, &out)
	}
	return kib, seen, nil
}

// peakOf lets a process go on that has stopped at its exec.
func peakOf(pid int) (kib float64, seen bool, err error) {
	const atExit = 6 // PTRACE_EVENT_EXIT
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(pid, &status, 0, nil); err != nil {
		return 0, false, err
	}
	if err := syscall.PtraceSetOptions(pid, 1<<atExit); err != nil {
		return 0, false, err
	}
	for signal := 0; ; {
		if err := syscall.PtraceCont(pid, signal); err != nil && err != syscall.ESRCH { // it is being killed
			return 0, false, err
		}
		if _, err := syscall.Wait4(pid, &status, 0, nil); err != nil {
			return 0, false, err
		}
		switch {
		case status.Exited() && status.ExitStatus() == 0:
			return 0, false, nil
		case !status.Stopped():
			return 0, false, fmt.Errorf("it has ended with %#x", uint32(status))
		case status.TrapCause() == atExit:
			kib, err := highWater(pid)
			return kib, true, errors.Join(err, syscall.PtraceDetach(pid))
		}
		signal = int(status.StopSignal())
	}
}

func highWater(pid int) (kib float64, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	_, value, _ := strings.Cut(string(text), "\nVmHWM:")
	_, err = fmt.Sscanf(value, "%f kB", &kib)
	return kib, err
}
