package integration

import (
	"testing"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
)

// TestSourceRoutes: main has IPv6 routes for packets from certain sources alone, before
// the general ones. They are nothing to a pod: it leaves by the general default, and
// what they lead to is no cluster network.
func TestSourceRoutes(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		config object
		routes []string
	}{
		"default": {nil, []string{"ip -6 route add default from fd00:bad::/64 via fd00:124::7 dev enp7s0 metric 1000"}},
		"more specific": {nil, []string{
			"ip -6 route add 2001:db8:80::/64 from fd00:bad::/64 via fd00:124::7 dev enp7s0",
			"ip -6 route add 2001:db8::/32 from fd00:bad::7 nexthop via fd00:124::7 dev enp7s0 nexthop via fd00:124::8 dev enp7s0",
		}},
		"by another link, no cluster networks configured": {derived, []string{"ip -6 route add 2001:db8:80::/64 from fd00:bad::/64 via 2001:db8:1::1"}},
	} {
		for when, before := range map[string]bool{"before": true, "later": false} {
			t.Run(name+", "+when, func(t *testing.T) {
				t.Parallel()
				c := newCluster(t, nettest.LabOptions{SecondDefault: true}, "1.0.0")
				d := c.newDirect(t, "pod", "10.244.1.5", "fd00:10:244::5", egressIP(tt.config))
				add := run(tt.routes...)
				if before {
					add(t, c)
					d.add(t, both)
				} else {
					d.add(t, both)
					add(t, c)
				}
				d.requireSeen(t, egress4, egress6)
				c.requireNothingToDo(t)
				c.status(t, 0)
				d.requireSeen(t, egress4, egress6)
				require.NotContains(t, c.command(t, "ip", "-6", "route", "show", "table", c.table(t)), "fd00:124::7")
				out, exit := c.egressIP(t, "explain", "payments/pod")
				require.Zero(t, exit, out)
			})
		}
	}
}
