package integration

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
)

// egressIP runs a command of the binary on the node; exit is its exit status.
func (c *cluster) egressIP(t testing.TB, args ...string) (stdout string, exit int) {
	t.Helper()
	var out, diagnostics strings.Builder
	cmd := exec.Command(filepath.Join(bin, "egress-ip"), args...)
	cmd.Stdout, cmd.Stderr = &out, &diagnostics
	_ = c.Node.Run(cmd)
	t.Logf("%s\n%s%s", cmd, &out, &diagnostics)
	return out.String(), cmd.ProcessState.ExitCode()
}

func TestResync(t *testing.T) {
	t.Parallel()
	for name, disaster := range map[string]func(t *testing.T, c *cluster){
		"nothing":   func(t *testing.T, c *cluster) {},
		"nft flush": func(t *testing.T, c *cluster) { c.command(t, "nft", "flush", "ruleset") },
		"rules": func(t *testing.T, c *cluster) {
			for _, f := range []string{"-4", "-6"} {
				for _, p := range []string{"5998", "5999", "5999", "6000", "6001"} {
					c.command(t, "ip", f, "rule", "del", "pref", p)
				}
			}
		},
		"table": func(t *testing.T, c *cluster) {
			for _, f := range []string{"-4", "-6"} {
				c.command(t, "ip", f, "route", "flush", "table", c.table(t))
			}
		},
		"address": func(t *testing.T, c *cluster) {
			c.command(t, "ip", "address", "del", egress4+"/32", "dev", "enp7s0")
			c.command(t, "ip", "address", "del", egress6+"/128", "dev", "enp7s0")
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t, nettest.LabOptions{SecondDefault: true}, "1.0.0")
			d := c.newDirect(t, "pod", "10.244.1.5", "fd00:10:244::5", egressIP(nil))
			d.add(t, both)
			d.requireSeen(t, egress4, egress6)
			before := c.state(t)
			disaster(t, c)
			_, exit := c.egressIP(t, "resync")
			require.Zero(t, exit)
			require.Equal(t, before, c.state(t))
			d.requireSeen(t, egress4, egress6)
			out, exit := c.egressIP(t, "resync")
			require.Zero(t, exit)
			require.Equal(t, "nothing to do\n", out)
		})
	}
}
