package integration

import (
	"os"
	"testing"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
)

// TestCleanup: after it the node is as if egress-ip had never been there, whatever
// is recorded, and whatever is not; what is others' stays. While pods are recorded
// it asks for --force and changes nothing.
func TestCleanup(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		forget bool     // the record is lost
		more   object   // of the configuration
		says   []string // beside what both say
	}{
		"recorded":                         {says: []string{"removed address 192.168.124.99/32 on enp7s0", "removed the record "}},
		"at another priority":              {more: object{"rulePriority": 7000, "tableBase": 2000}, says: []string{"removed IPv4 rule 7000: from 10.244.1.5 lookup 2003"}},
		"record lost":                      {forget: true},
		"record lost, at another priority": {forget: true, more: object{"rulePriority": 7000, "tableBase": 2000}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, nettest.LabOptions{SecondDefault: true}, "1.0.0")
			c.Node.Sysctl(t, "net.ipv4.conf.eth0.rp_filter", "1")
			c.command(t, "nft", "add table inet others; add chain inet others forward { type filter hook forward priority filter; }")
			c.command(t, "ip", "rule", "add", "priority", "6100", "from", "10.244.1.9", "lookup", "main")
			foreign := c.foreignRules(t)
			d := c.newDirect(t, "pod", "10.244.1.5", "fd00:10:244::5", egressIP(tt.more))
			before := c.state(t)
			d.add(t, both)
			d.requireSeen(t, egress4, egress6)
			require.Contains(t, c.state(t), "egress_ip_probe")

			standing := c.state(t)
			if tt.forget {
				require.NoError(t, os.RemoveAll(c.recordDir(t)))
				c.command(t, "ip", "address", "del", egress4+"/32", "dev", nettest.SecondLink) // nobody knows whose they are
				c.command(t, "ip", "address", "del", egress6+"/128", "dev", nettest.SecondLink)
				for _, link := range c.srcValidMark(t) { // nor who has set it
					c.Node.Sysctl(t, "net.ipv4.conf."+link+".src_valid_mark", "0")
				}
			} else {
				out, exit := c.egressIP(t, "cleanup")
				require.Equal(t, 1, exit)
				require.Empty(t, out)
				require.Equal(t, standing, c.state(t))
			}
			args := []string{"cleanup", "--force"}
			if tt.forget {
				args = args[:1]
				out, _ := c.status(t, 1)
				require.Contains(t, out, "unrecorded: egress-ip's in the kernel, but of no recorded pod:")
			}
			out, exit := c.egressIP(t, args...)
			require.Zero(t, exit)
			for _, line := range append(tt.says, "rule ", "removed route unreachable default metric 4278198272", "removed table ip6 egress_ip_probe",
				"removed chain prerouting of table inet egress_ip") {
				require.Contains(t, out, line)
			}
			require.Equal(t, before, c.state(t))
			require.Equal(t, foreign, c.foreignRules(t))
			require.Empty(t, c.srcValidMark(t))
			_, err := os.Lstat(c.recordDir(t))
			require.ErrorIs(t, err, os.ErrNotExist)

			out, exit = c.egressIP(t, "cleanup")
			require.Zero(t, exit)
			require.Equal(t, "nothing to do\n", out)
		})
	}
}
