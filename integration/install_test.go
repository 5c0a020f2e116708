package integration

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
)

// aNode is a node's directories, as an installation finds them.
type aNode struct {
	*nettest.Namespace
	root string
}

func newInstallNode(t testing.TB, files map[string]string) *aNode {
	t.Helper()
	n := &aNode{nettest.New(t, "node"), t.TempDir()}
	require.NoError(t, os.Mkdir(n.confDir(), 0o755))
	for name, text := range files {
		n.write(t, name, text)
	}
	return n
}

func (n *aNode) confDir() string         { return filepath.Join(n.root, "net.d") }
func (n *aNode) conf(name string) string { return filepath.Join(n.confDir(), name) }
func (n *aNode) binary() string          { return filepath.Join(n.root, "bin", "egress-ip") }

func (n *aNode) write(t testing.TB, name, text string) {
	t.Helper()
	require.NoError(t, os.WriteFile(n.conf(name), []byte(text), 0o644))
}

func (n *aNode) read(t testing.TB, name string) string {
	t.Helper()
	text, err := os.ReadFile(n.conf(name))
	require.NoError(t, err)
	return string(text)
}

// args are a command line with the node's directories.
func (n *aNode) args(args ...string) []string {
	return append(args, "--bin-dir", filepath.Dir(n.binary()), "--conf-dir", n.confDir())
}

// run runs a command of egress-ip's with the node's directories.
func (n *aNode) run(t testing.TB, exit int, args ...string) (stdout, stderr string) {
	t.Helper()
	return n.exec(t, exit, exec.Command(filepath.Join(bin, "egress-ip"), n.args(args...)...))
}

func (n *aNode) exec(t testing.TB, exit int, cmd *exec.Cmd) (stdout, stderr string) {
	t.Helper()
	var out, diagnostics strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &diagnostics
	require.NoError(t, n.Start(t, cmd))
	tooLong := time.AfterFunc(waitFor, func() { _ = cmd.Process.Kill() }) // it has ended
	_ = cmd.Wait()
	tooLong.Stop()
	require.Equal(t, exit, cmd.ProcessState.ExitCode(), "%s\n%s%s", cmd, &out, &diagnostics)
	return out.String(), diagnostics.String()
}

// all is every file below the node's directories: its name, inode, mode, owner and text.
func (n *aNode) all(t testing.TB) string {
	t.Helper()
	var b strings.Builder
	require.NoError(t, filepath.Walk(n.root, func(path string, info os.FileInfo, err error) error {
		require.NoError(t, err)
		owner := info.Sys().(*syscall.Stat_t)
		fmt.Fprintln(&b, strings.TrimPrefix(path, n.root), owner.Ino, info.Mode(), owner.Uid, owner.Gid)
		if info.Mode().IsRegular() && path != n.binary() {
			text, err := os.ReadFile(path)
			require.NoError(t, err)
			fmt.Fprintf(&b, "%s\n", text)
		}
		return nil
	}))
	return b.String()
}

const (
	flannelList = `{
  "name": "cbr0",
  "cniVersion": "0.3.1",
  "plugins": [
    {
      "type": "flannel",
      "delegate": { "hairpinMode": true, "mtu": 1.5e3 }
    },
    {
      "type": "portmap",
      "capabilities": { "portMappings": true }
    }
  ]
}
`
	bridgeList = `{"cniVersion":"1.0.0","name":"pods","plugins":[{"type":"bridge","isGateway":true}]}`
)

// entryFlags are of an entry that they make on one line.
var entryFlags = []string{"--link", "enp*", "--gateway", "192.168.124.1", "--gateway", "fd00:124::1",
	"--allow", "payments,team-*=192.168.124.96/28,fd00:124::90/124", "--allow", "tools",
	"--default", "team-build", "--default", "payments,team-*=192.168.124.99,fd00:124::99",
	"--cluster-cidr", "10.244.0.0/16", "--cluster-cidr", "10.96.0.0/12"}

const flagsEntry = `{"type":"egress-ip","capabilities":{"io.kubernetes.cri.pod-annotations":true},` +
	`"links":[{"name":"enp*","gateways":["192.168.124.1","fd00:124::1"],` +
	`"allow":[{"namespaces":["payments","team-*"],"addresses":["192.168.124.96/28","fd00:124::90/124"]},{"namespaces":["tools"]}]}],` +
	`"defaults":[{"namespaces":["team-build"]},{"namespaces":["payments","team-*"],"address":"192.168.124.99,fd00:124::99"}],` +
	`"clusterCIDRs":["10.244.0.0/16","10.96.0.0/12"]}`

const probeOnly = `{"type":"egress-ip","capabilities":{"io.kubernetes.cri.pod-annotations":true}}`

// withEntry is bridgeList with this entry.
func withEntry(entry string) string { return strings.TrimSuffix(bridgeList, "]}") + "," + entry + "]}" }

// TestInstall: the entry comes into the first file and nowhere else, the binary beside
// the plugins; a second time nothing is touched; mode and owner stay; uninstall leaves
// what there was.
func TestInstall(t *testing.T) {
	t.Parallel()
	n := newInstallNode(t, map[string]string{"10-flannel.conflist": flannelList, "20-other.conflist": bridgeList, "05-note.txt": "{"})
	require.NoError(t, os.Chmod(n.conf("10-flannel.conflist"), 0o640))
	require.NoError(t, os.Chown(n.conf("10-flannel.conflist"), 1234, 5678))

	out, _ := n.run(t, 0, append([]string{"install"}, entryFlags...)...)
	require.Contains(t, out, "copied egress-ip to "+n.binary())
	require.Contains(t, out, "put the entry into "+n.conf("10-flannel.conflist")+", behind flannel")
	require.Regexp(t, `(?s)"flannel".*"egress-ip".*"portmap"`, n.read(t, "10-flannel.conflist"))
	require.Contains(t, n.read(t, "10-flannel.conflist"), `"delegate": { "hairpinMode": true, "mtu": 1.5e3 }`)
	require.Equal(t, flannelList, n.read(t, "10-flannel.conflist.before-egress-ip"))
	require.Equal(t, bridgeList, n.read(t, "20-other.conflist"))
	for _, name := range []string{"10-flannel.conflist", "10-flannel.conflist.before-egress-ip"} {
		info, err := os.Stat(n.conf(name))
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o640), info.Mode())
		owner := info.Sys().(*syscall.Stat_t)
		require.Equal(t, [2]uint32{1234, 5678}, [2]uint32{owner.Uid, owner.Gid})
	}
	info, err := os.Stat(n.binary())
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o755), info.Mode())
	want, err := os.ReadFile(filepath.Join(bin, "egress-ip"))
	require.NoError(t, err)
	have, err := os.ReadFile(n.binary())
	require.NoError(t, err)
	require.True(t, bytes.Equal(want, have))

	installed := n.all(t)
	for _, again := range [][]string{{"install"}, append([]string{"install"}, entryFlags...)} {
		out, _ = n.run(t, 0, again...)
		require.Contains(t, out, "nothing to do")
		require.Equal(t, installed, n.all(t))
	}
	out, _ = n.exec(t, 0, exec.Command(n.binary(), n.args("install")...)) // the installed binary itself
	require.Contains(t, out, "nothing to do")
	require.Equal(t, installed, n.all(t))

	_, stderr := n.run(t, 0, "install", "--allow", "payments", "--cluster-cidr", "10.244.0.0/16")
	require.Empty(t, stderr)
	require.NotContains(t, n.read(t, "10-flannel.conflist"), "enp*")
	require.Equal(t, flannelList, n.read(t, "10-flannel.conflist.before-egress-ip"))

	_, stderr = n.run(t, 0, "install", "--conflist", n.conf("10-flannel.conflist"))
	require.Empty(t, stderr)
	n.run(t, 0, "uninstall")
	require.Equal(t, flannelList, n.read(t, "10-flannel.conflist"))
	n.requireFiles(t, "05-note.txt", "10-flannel.conflist", "20-other.conflist")
	require.NoFileExists(t, n.binary())
	out, _ = n.run(t, 0, "uninstall")
	require.Contains(t, out, "nothing to do")
}

// requireFiles: these are in the directory of configurations, and no others.
func (n *aNode) requireFiles(t testing.TB, names ...string) {
	t.Helper()
	entries, err := os.ReadDir(n.confDir())
	require.NoError(t, err)
	var have []string
	for _, e := range entries {
		have = append(have, e.Name())
	}
	require.Equal(t, names, have)
}

// TestInstallEntry: where the entry comes from, and which one exists then.
func TestInstallEntry(t *testing.T) {
	t.Parallel()
	old := `{"type":"egress-ip","counters":true}`
	for name, tt := range map[string]struct {
		before, stdin string
		args          []string
		entry         string // that is installed then
		out, err      string
	}{
		"none":                    {before: bridgeList, entry: probeOnly, out: "the entry has no links"},
		"none, one exists":        {before: withEntry(old), entry: old, out: "has the entry already"},
		"flags":                   {before: bridgeList, args: entryFlags, entry: flagsEntry, err: "links[0].name: this node has no link enp* now; it has lo"},
		"flags, one exists":       {before: withEntry(old), args: entryFlags, entry: flagsEntry, out: "changed the entry in", err: "enp*"},
		"flags, several exist":    {before: withEntry(old + "," + old), args: entryFlags, entry: flagsEntry, err: "enp*"},
		"no link named":           {before: bridgeList, args: []string{"--allow", "*=192.168.124.96/28"}, entry: strings.TrimSuffix(probeOnly, "}") + `,"links":[{"allow":[{"namespaces":["*"],"addresses":["192.168.124.96/28"]}]}]}`},
		"cluster's networks":      {before: bridgeList, args: []string{"--cluster-cidr", "10.244.0.0/16"}, entry: strings.TrimSuffix(probeOnly, "}") + `,"clusterCIDRs":["10.244.0.0/16"]}`},
		"stdin":                   {before: bridgeList, args: []string{"--entry", "-"}, stdin: `{ "tableBase": 2000, "probeSNAT": {"links": ["lo","eth7"]} }`, entry: strings.TrimSuffix(probeOnly, "}") + `,"tableBase":2000,"probeSNAT":{"links":["lo","eth7"]}}`, err: "probeSNAT.links: this node has no link eth7"},
		"capabilities of its own": {before: bridgeList, args: []string{"--entry", "-"}, stdin: `{"capabilities":{},"links":[{"name":"lo"}]}`, entry: `{"type":"egress-ip","capabilities":{},"links":[{"name":"lo"}]}`, err: "so no annotation arrives"},
		"bridge is no gateway":    {before: `{"cniVersion":"1.0.0","name":"pods","plugins":[{"type":"bridge"}]}`, entry: probeOnly, err: "has no isGateway"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newInstallNode(t, map[string]string{"10-net.conflist": tt.before})
			cmd := exec.Command(filepath.Join(bin, "egress-ip"), append(n.args("install"), tt.args...)...)
			cmd.Stdin = strings.NewReader(tt.stdin)
			out, err := n.exec(t, 0, cmd)
			require.Contains(t, out, tt.out)
			require.Contains(t, err, tt.err)
			require.Equal(t, tt.err == "", err == "")
			after := strings.Replace(withEntry(tt.entry), `"isGateway":true`, `"isGateway":true`, 1)
			if !strings.Contains(tt.before, "isGateway") {
				after = strings.Replace(after, `,"isGateway":true`, "", 1)
			}
			require.Equal(t, after, n.read(t, "10-net.conflist"))
		})
	}
}

// TestInstallRefuses: it says what is wrong and what to do, and has written nothing.
func TestInstallRefuses(t *testing.T) {
	t.Parallel()
	const file = "10-net.conflist"
	for name, tt := range map[string]struct {
		file, text string
		args       []string
		exit       int
		want       string
	}{
		"macvlan":               {file, `{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"macvlan"}]}`, nil, 1, "its main plugin is macvlan"},
		"OVN-Kubernetes":        {"10-ovn.conf", `{"cniVersion":"0.4.0","name":"ovn-kubernetes","type":"ovn-k8s-cni-overlay"}`, nil, 1, "its main plugin is ovn-k8s-cni-overlay"},
		"Multus":                {"00-multus.conf", `{"cniVersion":"0.3.1","name":"multus","type":"multus","delegates":[]}`, nil, 1, "its main plugin is multus"},
		"AWS's rules":           {"10-aws.conflist", `{"cniVersion":"0.4.0","name":"aws-cni","plugins":[{"type":"aws-cni"}]}`, []string{"--allow", "payments"}, 1, `10-aws.conflist: rulePriority 6000: the AWS VPC CNI's own rules`},
		"no list":               {"10-net.conf", `{"cniVersion":"1.0.0","name":"n","type":"bridge"}`, nil, 1, "write a list with this plugin into 10-net.conflist"},
		"a list by no name":     {"10-net.conf", bridgeList, nil, 1, "if it has a list already, rename it"},
		"broken":                {file, bridgeList[:50], nil, 1, "not valid JSON"},
		"empty":                 {file, "", nil, 1, "not valid JSON"},
		"no plugins":            {file, `{"cniVersion":"1.0.0","name":"n","plugins":[]}`, nil, 1, "its key plugins has none"},
		"too old":               {file, strings.Replace(bridgeList, "1.0.0", "0.2.0", 1), nil, 1, `its cniVersion is "0.2.0"`},
		"no file":               {"10-net.txt", bridgeList, nil, 1, "has no .conflist, .conf or .json: install the main CNI plugin first"},
		"no such file":          {file, bridgeList, []string{"--conflist", "/nonexistent/x.conflist"}, 1, "/nonexistent/x.conflist: "},
		"existing entry is bad": {file, withEntry(`{"type":"egress-ip","link":[]}`), nil, 1, `unknown key "link"`},
		"misspelt":              {file, bridgeList, []string{"--entry", "/dev/stdin"}, 1, `unknown key "clusterCIDR"`},
		"bad value":             {file, bridgeList, []string{"--allow", "payments=192.168.124.97/28"}, 1, "did you mean 192.168.124.96/28?"},
		"no entry file":         {file, bridgeList, []string{"--entry", "/nonexistent"}, 1, "/nonexistent: no such file"},
		"two links":             {file, bridgeList, []string{"--link", "a", "--link", "b"}, 2, "--entry"},
		"entry and flags":       {file, bridgeList, []string{"--entry", "-", "--link", "a"}, 2, "leave out"},
		"no namespace allowed":  {file, bridgeList, []string{"--link", "a"}, 2, "--allow"},
		"dry run and watch":     {file, bridgeList, []string{"--dry-run", "--watch"}, 2, "say one of them"},
		"watch, macvlan":        {file, `{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"macvlan"}]}`, []string{"--watch"}, 1, "its main plugin is macvlan"},
		"dry run, refused":      {file, bridgeList[:50], []string{"--dry-run"}, 1, "not valid JSON"},
		"too much":              {file, bridgeList, []string{"now"}, 2, `unexpected argument "now"`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newInstallNode(t, map[string]string{tt.file: tt.text})
			before := n.all(t)
			cmd := exec.Command(filepath.Join(bin, "egress-ip"), append(n.args("install"), tt.args...)...)
			cmd.Stdin = strings.NewReader(`{"clusterCIDR":[]}`)
			out, err := n.exec(t, tt.exit, cmd)
			require.Empty(t, out)
			require.Contains(t, err, tt.want)
			require.Equal(t, before, n.all(t))
		})
	}
}
