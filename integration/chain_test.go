package integration

import (
	"testing"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
)

// TestBridge is the whole way with the reference bridge plugin, whose masquerade
// would give every pod the node's address, at each version and by each backend.
func TestBridge(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ cniVersion, ipMasqBackend string }{
		{"0.3.0", "nftables"}, {"0.3.1", "iptables"}, {"0.4.0", "nftables"}, {"1.0.0", "iptables"}, {"1.1.0", "nftables"},
	} {
		t.Run(tt.cniVersion+" "+tt.ipMasqBackend, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, nettest.LabOptions{SecondDefault: true}, tt.cniVersion,
				bridge(t, tt.ipMasqBackend), egressIP(nil))
			requireEgress(t, c, tt.cniVersion >= "0.4.0")
		})
	}
}

// TestPTP is the same with the reference ptp plugin, which routes each pod by a
// link of its own; and main has no default by the egress link, so that the
// configuration must give its next hops.
func TestPTP(t *testing.T) {
	t.Parallel()
	c := newCluster(t, nettest.LabOptions{}, "1.0.0", ptp(t), egressIP(object{
		"links": []object{{
			"name":     "enp*",
			"gateways": []string{nettest.SecondGatewayIPv4, nettest.SecondGatewayIPv6},
			"allow": []object{{
				"namespaces": []string{"pay*"},
				"addresses":  []string{"192.168.124.96/28", "fd00:124::90/124"},
			}},
		}},
	}))
	requireEgress(t, c, true)
}

// requireEgress attaches a plain and an annotated pod and detaches them again.
func requireEgress(t *testing.T, c *cluster, hasCheck bool) {
	t.Helper()
	// The first DEL of the reference plugins leaves empty tables of theirs.
	c.add(t, nil).del(t)
	plain := c.add(t, annotations{"example.com/other": "x"})
	plain.requireSeen(t, nettest.PrimaryIPv4, nettest.PrimaryIPv6)
	before := c.state(t)

	annotated := c.add(t, both)
	annotated.requireSeen(t, egress4, egress6)
	plain.requireSeen(t, nettest.PrimaryIPv4, nettest.PrimaryIPv6)
	if hasCheck {
		for _, p := range []*pod{plain, annotated} {
			out, err := p.cnitool("check")
			require.NoError(t, err, out)
		}
	}

	annotated.del(t)
	require.Equal(t, before, c.state(t))
	plain.requireSeen(t, nettest.PrimaryIPv4, nettest.PrimaryIPv6)
	plain.del(t)
	c.requireNoAttachment(t)
}
