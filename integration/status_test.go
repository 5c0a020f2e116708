package integration

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/egress-ip/egress-ip/pkg/status"
	"github.com/prometheus/common/expfmt"
	"github.com/stretchr/testify/require"
)

// TestStatusCommandLine: what `egress-ip status` says without looking at the node.
func TestStatusCommandLine(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		args           []string
		exit           int
		stdout, stderr string
	}{
		"-h":               {[]string{"-h"}, 0, "usage: egress-ip status", ""},
		"--help, behind":   {[]string{"-o", "json", "--help"}, 0, "usage: egress-ip status", ""},
		"format":           {[]string{"-o", "yaml"}, 2, "", `-o "yaml": there are text, json and prometheus`},
		"no format":        {[]string{"-o"}, 2, "", "flag needs an argument"},
		"argument":         {[]string{"now"}, 2, "", `unexpected argument "now"`},
		"argument, before": {[]string{"now", "-o", "json"}, 2, "", `unexpected argument "now"`},
		"flag":             {[]string{"--colour"}, 2, "", "unknown flag: --colour; see egress-ip status -h"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cmd := exec.Command(filepath.Join(bin, "egress-ip"), append([]string{"status"}, tt.args...)...)
			var stdout, stderr bytes.Buffer
			cmd.Stdout, cmd.Stderr = &stdout, &stderr
			_ = cmd.Run()
			require.Equal(t, tt.exit, cmd.ProcessState.ExitCode(), "%s", &stderr)
			for _, out := range []struct{ have, want string }{{stdout.String(), tt.stdout}, {stderr.String(), tt.stderr}} {
				if out.want == "" {
					require.Empty(t, out.have)
				}
				require.Contains(t, out.have, out.want)
			}
		})
	}
}

// status runs `egress-ip status` on the node, and returns what it prints.
func (c *cluster) status(t *testing.T, exit int, args ...string) (stdout, stderr string) {
	t.Helper()
	cmd := exec.Command(filepath.Join(bin, "egress-ip"), append([]string{"status"}, args...)...)
	var out, err bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &err
	_ = c.Node.Run(cmd)
	require.Equal(t, exit, cmd.ProcessState.ExitCode(), "%s%s", &out, &err)
	return out.String(), err.String()
}

// TestStatusCommand: a node without pods, with one, with its link down, and one that
// cannot be looked at.
func TestStatusCommand(t *testing.T) {
	t.Parallel()
	c := newCluster(t, nettest.LabOptions{SecondDefault: true}, "1.1.0")
	out, _ := c.status(t, 0)
	require.Equal(t, "healthy: nothing is recorded; no pod has egress here, and there is no probe table\n", out)

	d := c.newDirect(t, "0123456789abcdef", "10.244.1.5", "fd00:10:244::5", egressIP(object{"probeSNAT": object{"mode": "never"}}))
	d.add(t, both)
	before := c.state(t)
	out, _ = c.status(t, 0)
	require.True(t, strings.HasPrefix(out, "healthy: 1 pod on 1 link\n"), out)
	long, _ := c.status(t, 0, "--output=text")
	require.Contains(t, long, egress4)

	out, _ = c.status(t, 0, "-o", "json")
	var s status.Status
	require.NoError(t, json.Unmarshal([]byte(out), &s))
	require.True(t, s.Healthy)
	require.Len(t, s.Links, 1)
	require.Equal(t, []any{nettest.SecondLink, status.LinkUp, 1}, []any{s.Links[0].Name, s.Links[0].State, s.Links[0].Pods})
	var seen []string
	for _, p := range s.Pods {
		seen = append(seen, strings.Join([]string{p.ContainerID, p.Interface, p.Address.String(), p.EgressAddress.String(), p.Link}, " "))
	}
	require.Equal(t, []string{
		"0123456789abcdef eth0 10.244.1.5 " + egress4 + " enp7s0",
		"0123456789abcdef eth0 fd00:10:244::5 " + egress6 + " enp7s0",
	}, seen)

	out, _ = c.status(t, 0, "-oprometheus")
	var parser expfmt.TextParser
	families, err := parser.TextToMetricFamilies(strings.NewReader(out))
	require.NoError(t, err)
	require.Len(t, families["egress_ip_pod_healthy"].GetMetric(), 2)
	require.NotEmpty(t, families["egress_ip_build_info"].GetMetric()[0].GetLabel()[0].GetValue())
	require.Equal(t, before, c.state(t), "status has changed something")

	c.command(t, "ip", "link", "set", nettest.SecondLink, "down")
	out, _ = c.status(t, 1)
	require.True(t, strings.HasPrefix(out, "NOT healthy: 1 pod on 1 link"), out)
	for _, format := range []string{"json", "prometheus"} {
		out, _ = c.status(t, 1, "-o", format)
		require.NotEmpty(t, out)
	}

	// A directory that cannot be read at all.
	require.NoError(t, os.RemoveAll(filepath.Join(c.recordDir(t), "attachments")))
	require.NoError(t, os.WriteFile(filepath.Join(c.recordDir(t), "attachments"), nil, 0o600))
	for _, format := range []string{"text", "json", "prometheus"} {
		_, problem := c.status(t, 3, "-o", format)
		require.Contains(t, problem, "egress-ip status: ")
	}
}

// TestStatusCannotPrint: what did not reach a full disk is not healthy.
func TestStatusCannotPrint(t *testing.T) {
	t.Parallel()
	c := newCluster(t, nettest.LabOptions{}, "1.1.0")
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	require.NoError(t, err)
	defer full.Close()
	cmd := exec.Command(filepath.Join(bin, "egress-ip"), "status")
	var stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = full, &stderr
	_ = c.Node.Run(cmd)
	require.Equal(t, 3, cmd.ProcessState.ExitCode())
	require.Contains(t, stderr.String(), "no space left")
}
