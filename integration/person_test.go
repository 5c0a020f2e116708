package integration

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// commandLines has all commands of the binary, each with what it needs, and none for the machine's
// own directories.
func (n *aNode) commandLines() map[string][]string {
	return map[string][]string{
		"status": {"status"}, "explain": {"explain", "payments/pod"}, "resync": {"resync"}, "cleanup": {"cleanup"},
		"install": n.args("install"), "uninstall": n.args("uninstall"), "version": {"version"},
	}
}

// TestPerson: what the binary says when a person calls it; in a namespace, for what
// it would do if it took a wrong command line for a right one.
func TestPerson(t *testing.T) {
	t.Parallel()
	node := nettest.New(t, "node")
	for name, tt := range map[string]struct {
		args           []string
		exit           int
		stdout, stderr string
	}{
		"nothing":             {nil, 2, "", "egress-ip version"},
		"help":                {[]string{"help"}, 0, "egress-ip resync ", ""},
		"-h":                  {[]string{"-h"}, 0, "egress-ip version", ""},
		"help, exit statuses": {[]string{"help"}, 0, "4  another one runs", ""},
		"help, unknown":       {[]string{"help", "statsu"}, 2, "", `unknown command "statsu"; there are status, `},
		"help, too much":      {[]string{"help", "status", "resync"}, 2, "", `unexpected argument "resync"`},
		"-h, unknown":         {[]string{"-h", "statsu"}, 2, "", `unknown command "statsu"`},
		"version":             {[]string{"version"}, 0, "CNI 0.3.0 0.3.1 0.4.0 1.0.0 1.1.0", ""},
		"--version":           {[]string{"--version"}, 0, "CNI 0.3.0 0.3.1 0.4.0 1.0.0 1.1.0", ""},
		"version -h":          {[]string{"version", "-h"}, 0, "usage: egress-ip version", ""},
		"version, too much":   {[]string{"version", "now"}, 2, "", `unexpected argument "now"; see egress-ip version -h`},
		"--version, too much": {[]string{"--version", "now"}, 2, "", `unexpected argument "now"; see egress-ip version -h`},
		"-v alone":            {[]string{"-v"}, 2, "", `-v belongs after a command`},
		"unknown":             {[]string{"statsu"}, 2, "", `unknown command "statsu"; there are status, explain, resync, cleanup, install, uninstall, version and help`},
		"resync -h":           {[]string{"resync", "-h"}, 0, "usage: egress-ip resync [--watch", ""},
		"resync --help":       {[]string{"resync", "--watch", "--help"}, 0, "go on, and resync whenever", ""},
		"resync, too much":    {[]string{"resync", "now", "--watch"}, 2, "", `unexpected argument "now"; see egress-ip resync -h`},
		"resync, wrong":       {[]string{"resync", "--wacth"}, 2, "", "--wacth"},
		"resync, too often":   {[]string{"resync", "--watch", "--every", "10ms"}, 2, "", "--every 10ms is less than a second; see egress-ip resync -h"},
		"cleanup -h":          {[]string{"cleanup", "-h"}, 0, "usage: egress-ip cleanup [--force]", ""},
		"cleanup, too much":   {[]string{"cleanup", "all"}, 2, "", `unexpected argument "all"; see egress-ip cleanup -h`},
		"uninstall, too much": {[]string{"uninstall", "now"}, 2, "", `unexpected argument "now"; see egress-ip uninstall -h`},

		// What a flag takes.
		"type of --output":       {[]string{"status", "-h"}, 0, "-o, --output format ", ""},
		"type of --to":           {[]string{"explain", "-h"}, 0, "--to address ", ""},
		"type of --every":        {[]string{"resync", "-h"}, 0, "--every duration ", ""},
		"type of --gateway":      {[]string{"install", "-h"}, 0, "--gateway address ", ""},
		"type of --allow":        {[]string{"install", "-h"}, 0, "--allow namespaces=addresses ", ""},
		"type of --cluster-cidr": {[]string{"install", "-h"}, 0, "--cluster-cidr prefix ", ""},
		"type of --conf-dir":     {[]string{"uninstall", "-h"}, 0, "--conf-dir directory ", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := calledBy(t, node, exec.Command(filepath.Join(bin, "egress-ip"), tt.args...))
			require.Equal(t, tt.exit, o.exit, o.stderr)
			for _, out := range []struct{ have, want string }{{o.stdout, tt.stdout}, {o.stderr, tt.stderr}} {
				if out.want == "" {
					require.Empty(t, out.have)
				}
				require.Contains(t, out.have, out.want)
			}
		})
	}
}

// calledBy runs a command in a namespace.
func calledBy(t *testing.T, n *nettest.Namespace, cmd *exec.Cmd) output {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	require.NoError(t, n.Start(t, cmd))
	tooLong := time.AfterFunc(waitFor, func() { _ = cmd.Process.Kill() }) // it has ended
	defer tooLong.Stop()
	_ = cmd.Wait() // the exit status says it
	return output{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// TestHelpOfCommands: help COMMAND prints what COMMAND -h does, and names the exit statuses
// and the flag that all commands have.
func TestHelpOfCommands(t *testing.T) {
	t.Parallel()
	node := newInstallNode(t, nil)
	for name := range node.commandLines() {
		help := calledBy(t, node.Namespace, exec.Command(filepath.Join(bin, "egress-ip"), "help", name))
		require.Zero(t, help.exit)
		require.Equal(t, help, calledBy(t, node.Namespace, exec.Command(filepath.Join(bin, "egress-ip"), name, "-h")))
		require.True(t, strings.HasPrefix(help.stdout, "usage: egress-ip "+name), help.stdout)
		require.Contains(t, help.stdout, "\n  2  the command line is wrong\n")
		require.Contains(t, help.stdout, "-v, --verbose ")
	}
}

// TestVerbose: -v, of any command, logs what is logged for nobody else.
func TestVerbose(t *testing.T) {
	t.Parallel()
	const debug = "level=DEBUG"
	for name := range newInstallNode(t, nil).commandLines() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newInstallNode(t, map[string]string{"10-net.conflist": bridgeList})
			args := n.commandLines()[name]
			quiet := calledBy(t, n.Namespace, exec.Command(filepath.Join(bin, "egress-ip"), args...))
			require.NotContains(t, quiet.stderr, debug)
			for _, flag := range []string{"-v", "--verbose"} {
				verbose := calledBy(t, n.Namespace, exec.Command(filepath.Join(bin, "egress-ip"), append(args, flag)...))
				require.Equal(t, quiet.exit, verbose.exit, verbose.stderr)
				require.Contains(t, verbose.stderr, debug)
			}
		})
	}
}

// TestNotRoot: who is not root is told, with the command line to use, by every command that
// needs root; and so is root without the capability that the kernel asks for. A wrong command
// line is wrong for anybody.
func TestNotRoot(t *testing.T) {
	t.Parallel()
	node := newInstallNode(t, map[string]string{"10-net.conflist": bridgeList})
	before := node.all(t)
	file, err := os.Open(filepath.Join(bin, "egress-ip"))
	require.NoError(t, err)
	defer file.Close()
	// The path to the binary may be root's alone; the open file is anybody's.
	asNobody := func(args ...string) output {
		return calledBy(t, node.Namespace, &exec.Cmd{
			Path: "/proc/self/fd/3", Args: append([]string{"./egress-ip"}, args...), ExtraFiles: []*os.File{file}, Dir: "/",
			SysProcAttr: &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}},
		})
	}
	for name, args := range node.commandLines() {
		require.Zero(t, asNobody("help", name).exit)
		require.Equal(t, 2, asNobody(name, "a", "b").exit)
		o := asNobody(args...)
		if name == "version" {
			require.Zero(t, o.exit, o.stderr)
			continue
		}
		require.Equal(t, output{"", "egress-ip " + name + ": run as root: sudo ./egress-ip " + strings.Join(args, " ") + "\n", 3}, o)
	}
	require.Contains(t, asNobody("install", "--link", "enp7s0", "--allow", "pay*=10.0.0.0/8", "--conf-dir", "it's").stderr,
		`sudo ./egress-ip install --link enp7s0 --allow 'pay*=10.0.0.0/8' --conf-dir 'it'\''s'`)

	for name, args := range node.commandLines() {
		if name == "install" || name == "version" { // they ask the kernel for nothing
			continue
		}
		cmd := exec.Command(filepath.Join(bin, "egress-ip"), args...)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		startWith(t, node.Namespace, []uintptr{unix.CAP_NET_RAW, unix.CAP_DAC_OVERRIDE}, cmd)
		_ = cmd.Wait() // the exit status says it
		require.Equal(t, 3, cmd.ProcessState.ExitCode(), "%s: %s", name, &stderr)
		require.Contains(t, stderr.String(), "egress-ip "+name+": run as root with CAP_NET_ADMIN")
	}
	require.Equal(t, before, node.all(t))
}

// TestCannotLook: a node of which nothing can be read is neither healthy nor unhealthy, and
// what would change it says that it has not.
func TestCannotLook(t *testing.T) {
	t.Parallel()
	c := newCluster(t, nettest.LabOptions{SecondDefault: true}, "1.1.0")
	d := c.newDirect(t, "pod", "10.244.1.5", "fd00:10:244::5", noProbe)
	d.add(t, both)
	c.command(t, "ip", "rule", "del", "from", "10.244.1.5")
	before := c.state(t)
	for _, args := range [][]string{{"status"}, {"explain", "payments/pod"}, {"resync"}, {"resync", "--watch"}, {"cleanup", "--force"}} {
		o := c.person(t, &noNetlink, args...)
		require.Equal(t, 3, o.exit, "%v: %s", args, o.stderr)
		require.Empty(t, o.stdout)
		require.Contains(t, o.stderr, "operation not permitted")
	}
	require.Equal(t, before, c.state(t))

	// A directory of records that is none.
	attachments := filepath.Join(c.recordDir(t), "attachments")
	require.NoError(t, os.RemoveAll(attachments))
	require.NoError(t, os.WriteFile(attachments, nil, 0o600))
	before = c.state(t)
	empty := t.TempDir()
	for _, args := range [][]string{
		{"status"}, {"explain", "payments/pod"}, {"resync"}, {"cleanup", "--force"}, {"uninstall", "--bin-dir", empty, "--conf-dir", empty},
	} {
		o := c.person(t, nil, args...)
		require.Equal(t, 3, o.exit, "%v: %s", args, o.stderr)
		require.Empty(t, o.stdout)
		require.Contains(t, o.stderr, "attachments: not a directory")
	}
	require.Equal(t, before, c.state(t))
}
