package containerd

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
)

// disk is what a node keeps when it is switched off: a folder with
//
//	lib        its /var/lib: leases of host-local, results of CNI calls
//	containerd containerd's root
//	bin        CNI plugins
//	net.d      the conflist
//	log        logs of containers
type disk string

func newDisk(t *testing.T) disk {
	t.Helper()
	dir := t.TempDir()
	for _, folder := range []string{"lib", "containerd", "bin", "net.d", "log"} {
		require.NoError(t, os.Mkdir(filepath.Join(dir, folder), 0o755))
	}
	d := disk(dir)
	for _, plugin := range []string{"loopback", "bridge", "host-local", "portmap", "egress-ip"} {
		d.installPlugin(t, plugin, filepath.Join(built.plugins, plugin))
	}
	d.configure(t, egressIP(allowed4, allowed6))
	return d
}

func (d disk) path(name string) string { return filepath.Join(string(d), name) }

// installPlugin puts a binary into the folder of CNI plugins, in place of what is there: atomically.
func (d disk) installPlugin(t *testing.T, name, binary string) {
	t.Helper()
	content, err := os.ReadFile(binary)
	require.NoError(t, err)
	path := filepath.Join(d.path("bin"), name)
	nettest.WriteProgram(t, path+".new", content)
	require.NoError(t, os.Rename(path+".new", path))
}

// node is a lab whose node is a machine that can be switched off, and runs containerd.
type node struct {
	*nettest.Lab
	disk
	cri
	machine    *exec.Cmd
	power      io.Closer // the machine's standard input: it is on until that is closed
	cgroup     string
	containerd *process
}

// nodes counts those of this process, for the names of their cgroups.
var nodes atomic.Int32

// newNode switches a node on, with containerd running and able to make pods.
func newNode(t *testing.T) *node {
	t.Helper()
	return boot(t, newDisk(t))
}

// boot switches a node on with a disk that another may have had before; the network is another one.
func boot(t *testing.T, d disk) *node {
	t.Helper()
	n := &node{
		Lab: nettest.NewLab(t, nettest.LabOptions{SecondDefault: true}), disk: d,
		cgroup: fmt.Sprintf("egress-ip-%d-%d", os.Getpid(), nodes.Add(1)),
	}
	n.machine = exec.Command(built.machine, d.path("lib"), n.cgroup)
	n.machine.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID}
	n.machine.Stderr = &bytes.Buffer{}
	power, err := n.machine.StdinPipe()
	require.NoError(t, err)
	n.power = power
	up, err := n.machine.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, n.Node.Start(t, n.machine))
	t.Cleanup(func() { n.switchOff(t) })
	line, err := bufio.NewReader(up).ReadString('\n')
	require.NoError(t, err, "machine: %s", n.machine.Stderr)
	require.Equal(t, "up\n", line)

	n.startContainerd(t)
	n.run(t, "ctr", "-a", socket, "-n", "k8s.io", "images", "import", "--snapshotter", snapshotter, built.image)
	n.waitReady(t)
	return n
}

// switchOff kills every process of the node, as a power failure would. Twice is harmless.
func (n *node) switchOff(t *testing.T) {
	t.Helper()
	if n.power == nil {
		return
	}
	n.power.Close()
	n.power = nil
	n.close()
	if err := n.machine.Wait(); err != nil {
		t.Errorf("machine: %v\n%s", err, n.machine.Stderr)
	}
	if n.containerd != nil {
		_ = n.containerd.Wait() // the error says that it was killed, or had ended before
	}
}

// command is a program that is to run in the node's namespaces.
func (n *node) command(name string, args ...string) *exec.Cmd {
	enter := []string{"--target", strconv.Itoa(n.machine.Process.Pid), "--mount", "--pid", "--net", "--", name}
	return exec.Command("nsenter", append(enter, args...)...)
}

// try runs a program on the node and returns all that it prints.
func (n *node) try(name string, args ...string) (string, error) {
	out, err := n.command(name, args...).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out)
	}
	return string(out), err
}

// run is try for a program that must not fail.
func (n *node) run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := n.try(name, args...)
	require.NoError(t, err)
	return out
}
