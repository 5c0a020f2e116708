package integration

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
)

// TestUninstallWithPods: while pods are recorded it asks for --force, and then leaves
// the binary, which takes them away.
func TestUninstallWithPods(t *testing.T) {
	t.Parallel()
	c := newNode(t)
	n := newInstallNode(t, map[string]string{"10-net.conflist": bridgeList})
	n.Namespace = c.Node
	n.run(t, 0, "install")
	d := c.newDirect(t, "pod", "10.244.1.5", "fd00:10:244::5", egressIP(nil))
	d.add(t, both)
	before := n.all(t)
	_, stderr := n.run(t, 1, "uninstall")
	require.Contains(t, stderr, "1 annotated pod is recorded")
	require.Equal(t, before, n.all(t))
	out, _ := n.run(t, 0, "uninstall", "--force")
	require.Equal(t, bridgeList, n.read(t, "10-net.conflist"))
	require.Contains(t, out, n.binary()+" stays as long as pods are recorded")
	require.Contains(t, out, n.binary()+" cleanup --force")
	c.command(t, n.binary(), "cleanup", "--force")
	n.run(t, 0, "uninstall")
	require.NoFileExists(t, n.binary())
}

// TestUninstallCleans: with the last entry goes what is installed in the kernel.
func TestUninstallCleans(t *testing.T) {
	t.Parallel()
	c := newCluster(t, nettest.LabOptions{SecondDefault: true}, "1.0.0")
	n := newInstallNode(t, map[string]string{"10-net.conflist": bridgeList, "20-net.conflist": withEntry(probeOnly)})
	n.Namespace = c.Node
	d := c.newDirect(t, "pod", "10.244.1.5", "fd00:10:244::5", egressIP(nil))
	before := c.state(t)
	n.run(t, 0, "install")
	d.add(t, both)
	d.del(t)
	installed := c.state(t)
	require.Contains(t, installed, "egress_ip_probe")
	out, _ := n.run(t, 0, "uninstall", "--dry-run", "--conflist", n.conf("10-net.conflist"))
	require.NotContains(t, out, "cleaned up")
	out, _ = n.run(t, 0, "uninstall", "--dry-run")
	require.Contains(t, out, "would have cleaned up the node")
	require.Equal(t, installed, c.state(t))
	out, _ = n.run(t, 0, "uninstall")
	require.Contains(t, out, "removed table ip6 egress_ip_probe")
	require.Equal(t, before, c.state(t))
	require.NoFileExists(t, n.binary())
}

// TestInstallProjects: installing what is in a project's entry.json makes of the file
// before the one after, to the byte, once and again; uninstall makes it what it was.
func TestInstallProjects(t *testing.T) {
	t.Parallel()
	for name := range projects {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, file := readProject(t, name)
			read := func(path ...string) string {
				text, err := os.ReadFile(filepath.Join(append([]string{projectsDir, name}, path...)...))
				require.NoError(t, err)
				return string(text)
			}
			n := newInstallNode(t, map[string]string{file: read("before", file)})
			n.run(t, 0, "install", "--entry", filepath.Join(projectsDir, name, "entry.json"))
			require.Equal(t, read("after", file), n.read(t, file))
			installed := n.all(t)
			n.run(t, 0, "install", "--entry", filepath.Join(projectsDir, name, "entry.json"))
			require.Equal(t, installed, n.all(t))
			n.run(t, 0, "uninstall")
			require.Equal(t, read("before", file), n.read(t, file))
			n.requireFiles(t, file)
			require.NoFileExists(t, n.binary())
		})
	}
}

// TestInstalledRuns: a pod that a runtime starts with what was installed leaves as
// its annotation says.
func TestInstalledRuns(t *testing.T) {
	t.Parallel()
	c := newCluster(t, nettest.LabOptions{SecondDefault: true}, "1.0.0", bridge(t, "nftables"), object{"type": "portmap", "capabilities": object{"portMappings": true}})
	n := &aNode{c.Node, t.TempDir()}
	c.plugins = filepath.Dir(n.binary())
	require.NoError(t, os.Symlink(c.dir, n.confDir()))
	out, stderr := n.run(t, 0, "install", "--link", nettest.SecondLink, "--allow", "payments=192.168.124.96/28,fd00:124::90/124",
		"--cluster-cidr", "10.244.0.0/16", "--cluster-cidr", "fd00:10:244::/56")
	require.Empty(t, stderr, out)
	p := c.add(t, both)
	p.requireSeen(t, egress4, egress6)
	c.add(t, nil).requireSeen(t, nettest.PrimaryIPv4, nettest.PrimaryIPv6)
	out, err := p.cnitool("check")
	require.NoError(t, err, out)
	p.del(t)
	c.requireNoAttachment(t)
	n.run(t, 0, "uninstall")
	c.add(t, both).requireSeen(t, nettest.PrimaryIPv4, nettest.PrimaryIPv6)
}
