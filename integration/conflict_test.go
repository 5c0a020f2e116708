package integration

import (
	"strings"
	"testing"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
)

// TestConflict: where another system owns the ground, an annotated pod does not
// start, and plain ones do.
func TestConflict(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		make, want []string
	}{
		"rule at our priority":       {[]string{"ip", "rule", "add", "priority", "6000", "from", "10.244.1.9", "lookup", "1003"}, []string{"6000: from 10.244.1.9 lookup 1003", "rulePriority"}},
		"IPv6 rule just before it":   {[]string{"ip", "-6", "rule", "add", "priority", "5999", "fwmark", "0x7", "lookup", "7"}, []string{"5999: from all fwmark 0x7", "rulePriority"}},
		"table of our name":          {[]string{"nft", "table inet egress_ip { chain theirs { accept; }; }"}, []string{"inet egress_ip", "theirs"}},
		"set in a table of our name": {[]string{"nft", "table inet egress_ip { set theirs { type ipv4_addr; }; }"}, []string{"inet egress_ip", "theirs"}},
		"OVN-Kubernetes":             {[]string{"iptables", "-t", "nat", "-N", "OVN-KUBE-EGRESS-IP-MULTI-NIC"}, []string{"OVN-Kubernetes", "OVN-KUBE-EGRESS-IP-MULTI-NIC"}},
		"OVN-Kubernetes, IPv6":       {[]string{"ip6tables", "-t", "nat", "-N", "OVN-KUBE-EGRESS-IP-MULTI-NIC"}, []string{"OVN-Kubernetes"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, nettest.LabOptions{SecondDefault: true}, "1.0.0")
			d := c.newDirect(t, "pod", "10.244.1.5", "fd00:10:244::5", egressIP(nil))
			c.command(t, tt.make[0], tt.make[1:]...)
			d.add(t, nil)
			_, err := d.call(t, "STATUS", nil)
			require.NoError(t, err)
			before := c.state(t)
			_, err = d.call(t, "ADD", both)
			for _, want := range tt.want {
				require.ErrorContains(t, err, jsonText(t, want))
			}
			require.ErrorContains(t, err, `"code": 103`)
			require.Equal(t, before, c.state(t))
			d.del(t)
			require.Equal(t, before, c.state(t))
		})
	}
}

// TestConflictProbe: a table of the probe table's name that is somebody else's is
// left alone, and pods start.
func TestConflictProbe(t *testing.T) {
	t.Parallel()
	c := newCluster(t, nettest.LabOptions{SecondDefault: true}, "1.0.0")
	d := c.newDirect(t, "pod", "10.244.1.5", "fd00:10:244::5", egressIP(nil))
	c.command(t, "nft", "table ip6 egress_ip_probe { chain theirs { accept; }; }")
	d.add(t, nil)
	d.add(t, both)
	d.requireSeen(t, egress4, egress6)
	table := c.command(t, "nft", "list", "table", "ip6", "egress_ip_probe")
	require.Equal(t, 1, strings.Count(table, "chain"))
	require.Contains(t, table, "chain theirs")
}
