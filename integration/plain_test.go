package integration

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/egress-ip/egress-ip/pkg/status"
	"github.com/google/nftables"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// The refusals of these tests. Without IPv6 (ipv6.disable=1) Linux 6.12 answers a dump of
// IPv6 rules with EAFNOSUPPORT, and a dump of IPv6 routes with none.
var (
	noNFTables = refusal{domain: unix.AF_NETLINK, protocol: unix.NETLINK_NETFILTER, errno: unix.EPERM}
	noNetlink  = refusal{domain: unix.AF_NETLINK, protocol: unix.NETLINK_ROUTE, errno: unix.EPERM}
	noIPv6     = refusal{domain: unix.AF_INET6, protocol: -1, message: unix.RTM_GETRULE, family: unix.AF_INET6, errno: unix.EAFNOSUPPORT}
)

// output is what a program has printed, and its exit status.
type output struct {
	stdout, stderr string
	exit           int
}

// runRefusing runs a command on the node, which the kernel refuses this, if anything.
func (c *cluster) runRefusing(t *testing.T, cmd *exec.Cmd, r *refusal) output {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	started := func() {}
	if r != nil {
		started = refusing(t, cmd, *r)
	}
	require.NoError(t, c.Node.Start(t, cmd))
	started()
	_ = cmd.Wait() // the exit status says it
	return output{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// person runs a person's command on the node.
func (c *cluster) person(t *testing.T, r *refusal, args ...string) output {
	t.Helper()
	return c.runRefusing(t, exec.Command(filepath.Join(bin, "egress-ip"), args...), r)
}

// refusing calls the plugin for the pod.
func (d *direct) refusing(t *testing.T, r *refusal, command, cniArgs string, a annotations) output {
	t.Helper()
	return d.cluster.runRefusing(t, pluginCommand(call{
		command: command, containerID: d.id, netns: d.Path(),
		stdin: request(t, d.entry, a, d.addresses...), args: cniArgs,
	}), r)
}

const paymentsPod = "K8S_POD_NAMESPACE=payments;K8S_POD_NAME=pod"

// requirePasses makes the calls of a plain pod's life, which all succeed, and ADD hands
// prevResult on. It returns what ADD has logged.
func (d *direct) requirePasses(t *testing.T, r *refusal, cniArgs string) string {
	t.Helper()
	added := d.refusing(t, r, "ADD", cniArgs, annotations{"example.com/egress": "192.168.124.99"})
	require.Zero(t, added.exit, "%s%s", added.stdout, added.stderr)
	var want struct{ PrevResult types100.Result }
	require.NoError(t, json.Unmarshal([]byte(request(t, d.entry, nil, d.addresses...)), &want))
	var result types100.Result
	require.NoError(t, json.Unmarshal([]byte(added.stdout), &result), added.stdout)
	require.Equal(t, want.PrevResult, result)
	for _, command := range []string{"CHECK", "DEL"} {
		done := d.refusing(t, r, command, cniArgs, nil)
		require.Zero(t, done.exit, "%s: %s%s", command, done.stdout, done.stderr)
	}
	return added.stderr
}

// requireFails makes an annotated pod's ADD, which fails with this code and a message
// that has this.
func (d *direct) requireFails(t *testing.T, r *refusal, cniArgs string, code uint, want string) {
	t.Helper()
	failed := d.refusing(t, r, "ADD", cniArgs, both)
	require.NotZero(t, failed.exit, failed.stdout)
	var e types.Error
	require.NoError(t, json.Unmarshal([]byte(failed.stdout), &e), failed.stdout)
	require.Equal(t, code, e.Code, e.Msg)
	require.Contains(t, e.Msg, want)
}

// ownProbeTable makes the probe table one that only this process may change.
func (c *cluster) ownProbeTable(t *testing.T) {
	t.Helper()
	var conn *nftables.Conn
	var err error
	c.Node.Do(t, func() {
		if conn, err = nftables.New(nftables.AsLasting()); err != nil {
			return
		}
		conn.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv6, Name: "egress_ip_probe", Flags: 2 /* NFT_TABLE_F_OWNER */})
		err = conn.Flush()
	})
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.CloseLasting() })
}

// TestPlainPodIsNotAffected: what is wrong with the entry, or with what only egress and
// probes need of the node, is logged, and a plain pod starts. An annotated one does not.
func TestPlainPodIsNotAffected(t *testing.T) {
	t.Parallel()
	never := egressIP(object{"probeSNAT": object{"mode": "never"}})
	for name, tt := range map[string]struct {
		entry   object
		args    string
		refused *refusal
		spoil   func(t *testing.T, c *cluster)
		code    uint   // of an annotated pod's error
		want    string // in that error, and in the log of a plain pod
		quiet   bool   // a plain pod has no need of it
	}{
		"misspelt key":          {entry: egressIP(object{"clusterCIDR": []string{"10.0.0.0/8"}}), code: codeConfig, want: `clusterCIDR`},
		"key of links":          {entry: egressIP(object{"links": []object{{"nmae": "enp7s0"}}}), code: codeConfig, want: "links[0].nmae"},
		"value of a wrong type": {entry: egressIP(object{"rulePriority": "6000"}), code: codeConfig, want: "rulePriority"},
		"value that makes none": {entry: egressIP(object{"markMask": "0x01000000"}), code: codeConfig, want: "markMask"},
		"value that cannot be":  {entry: egressIP(object{"rulePriority": 2}), code: codeConfig, want: "rulePriority: 2"},
		"probes":                {entry: egressIP(object{"probeSNAT": object{"mode": "sometimes"}}), code: codeConfig, want: "probeSNAT.mode"},
		"key that does nothing": {entry: egressIP(object{"ipam": object{"type": "host-local"}}), code: codeConfig, want: "ipam"},
		"CNI_ARGS":              {entry: never, args: "K8S_POD_NAMESPACE=payments=x", code: codeConfig, want: "CNI_ARGS", quiet: true},
		"nf_tables refused":     {entry: egressIP(nil), refused: &noNFTables, code: codeNode, want: "operation not permitted"},
		"nf_tables, no probes":  {entry: never, refused: &noNFTables, code: codeNode, want: "operation not permitted", quiet: true},
		"rtnetlink refused":     {entry: never, refused: &noNetlink, code: codeNode, want: "operation not permitted", quiet: true},
		"probe table that cannot be": {entry: egressIP(object{"probeSNAT": object{"mode": "always"}}), code: codeNode, want: "egress_ip_probe", spoil: func(t *testing.T, c *cluster) {
			c.ownProbeTable(t)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, nettest.LabOptions{SecondDefault: true}, "1.1.0")
			d := c.newDirect(t, "pod", "10.244.1.5", "fd00:10:244::5", tt.entry)
			if tt.args == "" {
				tt.args = paymentsPod
			}
			if tt.spoil != nil {
				tt.spoil(t, c)
			}
			log := d.requirePasses(t, tt.refused, tt.args)
			if !tt.quiet {
				require.Contains(t, log, tt.want)
			}
			d.requireFails(t, tt.refused, tt.args, tt.code, tt.want)
		})
	}
}

// TestPlainPodWithoutRecord: a record that cannot be read does not keep a plain pod from
// starting.
func TestPlainPodWithoutRecord(t *testing.T) {
	t.Parallel()
	c := newCluster(t, nettest.LabOptions{SecondDefault: true}, "1.1.0")
	d := c.newDirect(t, "pod", "10.244.1.5", "fd00:10:244::5", egressIP(nil))
	require.NoError(t, os.MkdirAll(filepath.Dir(c.recordDir(t)), 0o700))
	require.NoError(t, os.WriteFile(c.recordDir(t), nil, 0o600))
	for _, command := range []string{"ADD", "CHECK"} {
		done := d.refusing(t, nil, command, paymentsPod, nil)
		require.Zero(t, done.exit, "%s: %s%s", command, done.stdout, done.stderr)
	}
	d.requireFails(t, nil, paymentsPod, codeNode, "not a directory")
}

// TestPlainPodDisplacesWhateverTheEntry: a plain pod whose address had egress has none,
// also where nobody can read the entry.
func TestPlainPodDisplacesWhateverTheEntry(t *testing.T) {
	t.Parallel()
	c := newCluster(t, nettest.LabOptions{SecondDefault: true}, "1.1.0")
	d := c.newDirect(t, "dead", "10.244.1.5", "fd00:10:244::5", egressIP(object{"probeSNAT": object{"mode": "never"}}))
	d.add(t, both)
	d.requireSeen(t, egress4, egress6)
	d.id, d.entry = "plain", egressIP(object{"colour": "red"})
	d.add(t, nil)
	c.requireNoAttachment(t)
	require.NotContains(t, c.command(t, "ip", "rule"), "10.244.1.5")
	require.NotContains(t, c.command(t, "nft", "list", "tables"), "inet egress_ip")
}

// TestWithoutIPv6: on a node whose kernel has no IPv6 an annotated pod has all of its
// life with IPv4, and a person's commands say that all is well.
func TestWithoutIPv6(t *testing.T) {
	t.Parallel()
	c := newCluster(t, nettest.LabOptions{SecondDefault: true}, "1.1.0")
	d := c.newDirect(t, "pod", "10.244.1.5", "fd00:10:244::5", egressIP(nil))
	d.addresses = d.addresses[:1]
	c.Node.Sysctl(t, "net.ipv6.conf.all.disable_ipv6", "1")
	d.requirePasses(t, &noIPv6, paymentsPod)

	must := func(o output) string {
		t.Helper()
		require.Zero(t, o.exit, "%s%s", o.stdout, o.stderr)
		return o.stdout
	}
	must(d.refusing(t, &noIPv6, "ADD", paymentsPod, address(egress4)))
	require.Equal(t, egress4, (&pod{Namespace: d.Namespace}).sees(t, nettest.ServerAskIPv4))
	must(d.refusing(t, &noIPv6, "CHECK", paymentsPod, address(egress4)))
	require.Contains(t, must(c.person(t, &noIPv6, "status")), "healthy: 1 pod on 1 link\n")
	must(c.person(t, &noIPv6, "explain", "payments/pod"))
	require.Equal(t, "nothing to do\n", must(c.person(t, &noIPv6, "resync")))
	c.command(t, "ip", "rule", "del", "from", "10.244.1.5")
	require.Contains(t, must(c.person(t, &noIPv6, "resync")), "from 10.244.1.5")
	must(d.refusing(t, &noIPv6, "DEL", paymentsPod, address(egress4)))
	c.requireNoAttachment(t)
	must(d.refusing(t, &noIPv6, "ADD", paymentsPod, address(egress4)))
	must(c.person(t, &noIPv6, "cleanup", "--force"))
	c.requireNoAttachment(t)
	require.NotContains(t, c.command(t, "ip", "rule"), "10.244.1.5")
}

// TestCommandsWithoutNFTables: where nf_tables is refused a person's commands do what
// they can without, and say what they could not read; none is content.
func TestCommandsWithoutNFTables(t *testing.T) {
	t.Parallel()
	c := newCluster(t, nettest.LabOptions{SecondDefault: true}, "1.1.0")
	d := c.newDirect(t, "pod", "10.244.1.5", "fd00:10:244::5", egressIP(object{"probeSNAT": object{"mode": "never"}}))
	requireSaid := func(o output) string {
		t.Helper()
		require.Equal(t, 1, o.exit, "%s%s", o.stdout, o.stderr)
		require.Contains(t, o.stdout+o.stderr, "operation not permitted")
		return o.stdout
	}
	for _, command := range []string{"status", "resync", "cleanup"} {
		requireSaid(c.person(t, &noNFTables, command))
	}

	d.add(t, both)
	c.command(t, "ip", "rule", "del", "from", "10.244.1.5")
	var s status.Status
	require.NoError(t, json.Unmarshal([]byte(c.person(t, &noNFTables, "status", "-o", "json").stdout), &s))
	require.False(t, s.Healthy)
	require.NotEmpty(t, s.Unread)
	require.Len(t, s.Pods, 2)
	for _, p := range s.Pods {
		require.NotEqual(t, status.PodHealthy, p.State)
		// What cannot be read is not said to be missing.
		require.Len(t, p.Missing, map[bool]int{true: 1, false: 0}[p.Address.Is4()], p.Missing)
	}
	require.Contains(t, requireSaid(c.person(t, &noNFTables, "resync")), "from 10.244.1.5")
	require.Contains(t, c.command(t, "ip", "rule"), "10.244.1.5")
	d.requireSeen(t, egress4, egress6)
	requireSaid(c.person(t, &noNFTables, "cleanup", "--force"))
	require.NotContains(t, c.command(t, "ip", "rule"), "10.244.1.5")
	// What is left is recorded, and goes as soon as it can be read.
	done := c.person(t, nil, "cleanup", "--force")
	require.Zero(t, done.exit, done.stderr)
	require.NotContains(t, c.command(t, "nft", "list", "tables"), "egress_ip")
	c.requireNoAttachment(t)
}
