package integration

import (
	"strings"
	"testing"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
)

// TestRefusingRoutes: main has routes that refuse, for the server's networks. Where the
// configuration names no cluster networks, they are cluster networks as main's other
// routes are, and refuse an annotated pod, too. Where it does, it alone decides: what it
// does not name leaves by the link, and for what it names main is asked.
func TestRefusingRoutes(t *testing.T) {
	t.Parallel()
	servers := []string{"203.0.113.0/24", "2001:db8:80::/64"}
	for _, kind := range []string{"prohibit", "unreachable", "blackhole"} {
		for name, tt := range map[string]struct {
			config object
			leaves bool
		}{
			"no cluster networks named":         {derived, false},
			"cluster networks named":            {nil, true},
			"cluster networks named, and these": {object{"clusterCIDRs": append([]string{"10.244.0.0/16", "fd00:10:244::/56"}, servers...)}, false},
		} {
			t.Run(kind+", "+name, func(t *testing.T) {
				t.Parallel()
				s := newCluster(t, nettest.LabOptions{SecondDefault: true, ThirdLink: true}, "1.0.0")
				d := s.newTenant(t, tt.config, "pod", "10.244.1.5", "fd00:10:244::5", egress4, egress6)
				for _, network := range servers {
					family := "-4"
					if strings.Contains(network, ":") {
						family = "-6"
					}
					s.command(t, "ip", family, "route", "add", kind, network)
				}
				d.attach(t)
				if tt.leaves {
					d.requireSeen(t, egress4, egress6)
				} else {
					primary, second := s.Router.Capture(t, nettest.RouterPrimaryLink), s.Router.Capture(t, nettest.RouterSecondLink)
					require.Zero(t, answered(d, "udp"))
					for _, link := range []*nettest.Capture{primary, second} {
						require.Zero(t, link.Count(func(p nettest.Packet) bool { return p.DstPort == nettest.WhoAmIPort }))
					}
				}
				s.requireNothingToDo(t)
			})
		}
	}
}
