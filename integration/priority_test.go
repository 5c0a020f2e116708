package integration

import (
	"net/netip"
	"testing"

	"github.com/egress-ip/egress-ip/pkg/config"
	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/egress-ip/egress-ip/pkg/node"
	"github.com/stretchr/testify/require"
)

// TestDeleteLowRulePriority: what an earlier version has recorded with a rulePriority that
// is refused today is deleted, and leaves nothing.
func TestDeleteLowRulePriority(t *testing.T) {
	t.Parallel()
	for name, priority := range map[string]uint32{"1": 1, "2": 2} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, nettest.LabOptions{SecondDefault: true}, "1.1.0")
			d := c.newDirect(t, "low", "10.244.1.5", "fd00:10:244::5", egressIP(object{"probeSNAT": object{"mode": "never"}}))
			before := c.state(t)
			var err error
			c.Node.Do(t, func() {
				var n *node.Node
				if n, err = node.Open(); err != nil {
					return
				}
				defer n.Close()
				err = n.Attach(config.Config{
					Network: "net", RulePriority: priority, TableBase: config.DefaultTableBase, MarkMask: config.DefaultMarkMask,
					Probe: config.Probe{Mode: config.ProbeNever},
					Links: []config.Link{{Pattern: nettest.SecondLink, Allow: []config.Allow{{
						Namespaces: []string{"*"}, Addresses: []netip.Prefix{netip.MustParsePrefix("192.168.124.96/28")},
					}}}},
				}, config.Request{
					ContainerID: d.id, IfName: "eth0", PodAddresses: []netip.Addr{netip.MustParseAddr("10.244.1.5")},
					Addresses: []netip.Addr{netip.MustParseAddr(egress4)},
				})
			})
			require.NoError(t, err)
			require.NotEqual(t, before, c.state(t))
			d.del(t)
			require.Equal(t, before, c.state(t))
		})
	}
}
