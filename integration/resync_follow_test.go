package integration

import (
	"strings"
	"testing"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
)

// TestResyncNewLink: a link is made anew, and a pod starts on it before the others are
// put back, or after that. All are on the new link then, and nothing of the old is left.
func TestResyncNewLink(t *testing.T) {
	t.Parallel()
	healNewLink(t, byResync)
}

func healNewLink(t *testing.T, begin healer) {
	for name, before := range map[string]bool{"pod before": true, "pod after": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStricken(t, nil, nil)
			connections := s.establish(t)
			newcomer := s.newTenant(t, nil, "newcomer", "10.244.1.11", "fd00:10:244::b", egress4, other6)
			heal := begin(t, s)
			asks := s.keepFarAsking(t)
			old := s.table(t)
			s.Node.DeleteLink(t, nettest.SecondLink)
			second.remake(t, s.cluster)
			if before {
				newcomer.attach(t)
			}
			heal(func() bool {
				whole := s.whole(t)
				return !strings.Contains(whole, "lookup "+old) && strings.Count(whole, "lookup OF-enp7s0") >= 8
			})
			if !before {
				newcomer.attach(t)
			}
			s.requireHealed(t, connections, nil)
			newcomer.requireSeen(t, egress4, other6)
			after := s.whole(t)
			require.NotRegexp(t, `\b`+old+`\b`, after)
			s.requireNothingToDo(t)
			asks.requireAll(t)
			// The newcomer stays, so that the link keeps its mark.
			s.addAnew(t)
			require.Equal(t, s.whole(t), after)
		})
	}
}

// TestResyncHalfway: a resync when the link is up and nobody has yet put back what it
// had; the next one puts all right.
func TestResyncHalfway(t *testing.T) {
	t.Parallel()
	s := newStricken(t, nil, nil)
	before := s.whole(t)
	connections := s.establish(t)
	asks := s.keepFarAsking(t)
	leaks := s.watch(t)
	second.down(t, s.cluster)
	s.resync(t)
	s.Node.SetUp(t, nettest.SecondLink)
	s.Node.WaitUsable(t, nettest.SecondLink)
	s.resync(t)
	s.requireNothingToDo(t)
	sends := []func(){s.open(t, 5000)}
	s.Node.AddAddress(t, nettest.SecondLink, nettest.SecondIPv6+"/64")
	s.resync(t)
	s.requireNothingToDo(t)
	second.addDefaults(t, s.cluster)
	s.resync(t)
	leaks.requireNone(t)
	leaks.stop()
	s.requireHealed(t, connections, sends)
	asks.requireAll(t)
	require.Equal(t, before, s.whole(t))
	s.requireNothingToDo(t)
}

// TestResyncClusterRouteGoes: what was a cluster network by main's routes is none any
// more. Connections to it had no egress address, and must not go out by the link so.
func TestResyncClusterRouteGoes(t *testing.T) {
	t.Parallel()
	healClusterRoute(t, byResync)
}

func healClusterRoute(t *testing.T, begin healer) {
	networks := run("ip route add 203.0.113.0/24 via 192.0.2.1", "ip -6 route add 2001:db8:80::/64 via 2001:db8:1::1")
	s := newStricken(t, derived, networks)
	heal := begin(t, s)
	for _, d := range s.tenants {
		for _, w := range d.ways() {
			saw := askFrom(t, d.Namespace, "udp", 5000, w.server)
			require.Contains(t, []string{nettest.PrimaryIPv4, nettest.PrimaryIPv6}, saw)
		}
	}
	run("ip route del 203.0.113.0/24", "ip -6 route del 2001:db8:80::/64")(t, s.cluster)
	heal(func() bool {
		return !strings.Contains(s.whole(t), "throw 203.0.113") && !strings.Contains(s.whole(t), "throw 2001:db8:80:")
	})
	s.requireHealed(t, nil, []func(){func() {}}) // by the same port
	s.requireNothingToDo(t)
}

// TestResyncProbeFollows: where the configuration names no links, probes come in by
// those that have an IPv6 default route now; while none has, by those of before.
func TestResyncProbeFollows(t *testing.T) {
	t.Parallel()
	healProbe(t, byResync)
}

func healProbe(t *testing.T, begin healer) {
	s := &stricken{cluster: newCluster(t, nettest.LabOptions{}, "1.0.0")}
	d := s.newDirect(t, "probed", "10.244.1.5", probedPod, egressIP(nil))
	d.add(t, nil)
	table := func() string { return s.command(t, "nft", "-s", "list", "table", "ip6", "egress_ip_probe") }
	before := table()
	require.Contains(t, before, `iifname "eth0"`)
	want := strings.ReplaceAll(before, `"eth0"`, `"enp7s0"`)
	heal := begin(t, s)
	run("ip -6 route del default", "ip -6 route add default via fd00:124::1 dev enp7s0")(t, s.cluster)
	heal(func() bool { return table() == want })
	require.Equal(t, want, table())
	s.requireNothingToDo(t)
	run("ip -6 route del default")(t, s.cluster)
	s.requireNothingToDo(t)
	require.Equal(t, want, table())

	// It is as if it had been so from the start.
	whole := s.whole(t)
	run("ip -6 route add default via fd00:124::1 dev enp7s0", "nft delete table ip6 egress_ip_probe")(t, s.cluster)
	d.add(t, nil)
	run("ip -6 route del default")(t, s.cluster)
	require.Equal(t, s.whole(t), whole)
}

// TestResyncMixed: pods of a link come with and without cluster networks in their
// configuration, in either order. ADD has installed what resync wants.
func TestResyncMixed(t *testing.T) {
	t.Parallel()
	for name, configs := range map[string][2]object{"named first": {nil, derived}, "named last": {derived, nil}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newNode(t)
			for i, config := range configs {
				d := c.newTenant(t, config, []string{"a", "b"}[i], []string{"10.244.1.5", "10.244.1.6"}[i], []string{"fd00:10:244::5", "fd00:10:244::6"}[i], egress4, egress6)
				d.attach(t)
				c.requireNothingToDo(t)
			}
			before := c.whole(t)
			deleteRules(5998, 6001)(t, c)
			c.resync(t)
			require.Equal(t, before, c.whole(t))
		})
	}
}
