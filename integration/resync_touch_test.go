package integration

import (
	"testing"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestResyncTouches: a repair writes what is missing, once, and touches nothing else.
func TestResyncTouches(t *testing.T) {
	t.Parallel()
	// As `ip monitor` would print them.
	const rule, delRule, route, delRoute, address = unix.RTM_NEWRULE, unix.RTM_DELRULE, unix.RTM_NEWROUTE, unix.RTM_DELROUTE, unix.RTM_NEWADDR
	for _, config := range []object{nil, derived} {
		s := newStricken(t, config, nil)
		before := s.whole(t)
		for _, tt := range []struct {
			name         string
			do           func(*testing.T, *cluster)
			changes      []uint16 // what rtnetlink says
			transactions int      // of nftables
		}{
			{"a rule", run("ip rule del from 10.244.1.5"), []uint16{rule}, 0},
			{"a rule too many", run("ip rule add from 10.244.1.77 pref 6000 lookup TABLE proto kernel"), []uint16{delRule}, 0},
			{"a throw", run("ip route del throw 10.244.1.5 table TABLE"), []uint16{route}, 0},
			{"closing routes", run("ip -FAMILY route del unreachable default metric 4278198272 table TABLE"), []uint16{route, route}, 0},
			{"a route too many", run("ip route add 198.51.100.0/24 via 192.168.124.1 table TABLE proto kernel"), []uint16{delRoute}, 0},
			{"a route that is another", run("ip route replace default via 192.168.124.7 metric 200 table TABLE proto kernel"), []uint16{route}, 0},
			{"an address", run("ip address del " + egress4 + "/32 dev enp7s0"), []uint16{address, route}, 0},
			{"an element", nft("delete element inet egress_ip snat4 { 10.244.1.5 . enp7s0 }"), nil, 3},
			{"the record", run("rm -r " + s.recordDir(t) + "/tables"), nil, 0},
		} {
			tt.do(t, s.cluster)
			changes, generation := s.watchChanges(t), s.generation(t)
			s.resync(t)
			require.Equal(t, tt.changes, changes(), tt.name)
			require.LessOrEqual(t, int(s.generation(t)-generation), tt.transactions, tt.name)
		}
		require.Equal(t, before, s.whole(t))
	}
}

// TestResyncClusterConnections: what pods have opened inside the cluster goes on, by
// Services too, whatever is repaired. A connection of which conntrack had forgotten the
// translation would be dead.
func TestResyncClusterConnections(t *testing.T) {
	t.Parallel()
	s := newStricken(t, object{"clusterCIDRs": []string{"10.96.0.0/12", "fd00:96::/112", "10.244.1.8/29", "fd00:10:244::8/125"}}, nil)
	s.command(t, "nft", `
		add table inet services
		add chain inet services prerouting { type nat hook prerouting priority dstnat; }
		add rule inet services prerouting ip daddr 10.96.0.10 dnat ip to 10.244.1.10
		add rule inet services prerouting ip6 daddr fd00:96::10 dnat ip6 to fd00:10:244::a
		add rule inet services prerouting ip daddr 10.96.0.11 dnat ip to 10.244.1.6
		add rule inet services prerouting ip6 daddr fd00:96::11 dnat ip6 to fd00:10:244::6`)
	first, sharing := s.tenants[0], s.tenants[1]
	for _, n := range []*nettest.Namespace{s.plain.Namespace, sharing.Namespace, s.Node} {
		n.ServeWhoAmI(t, nettest.WhoAmIPort)
	}
	for i, to := range []string{
		"10.96.0.10", "10.96.0.11", "10.244.1.10", "10.244.1.6", nettest.PrimaryIPv4, // of which 10.244.1.6 is in no cluster network
		"[fd00:96::10]", "[fd00:96::11]", "[fd00:10:244::a]", "[fd00:10:244::6]", "[" + nettest.PrimaryIPv6 + "]",
	} {
		saw := askFrom(t, first.Namespace, "udp", 5000+i, to+":8080")
		require.Equal(t, first.addresses[i/5], saw, to)
	}
	connections := s.connections(t, first.addresses...)
	require.Len(t, connections, 10)
	run("ip -FAMILY rule del pref 5998", "nft flush chain inet egress_ip out_INDEX")(t, s.cluster)
	s.resync(t)
	require.Equal(t, connections, s.connections(t, first.addresses...))
}

// TestResyncAnnounces: an address that is put back is announced, as with an ADD: the
// router, which believes that it is elsewhere, sends here at once.
func TestResyncAnnounces(t *testing.T) {
	t.Parallel()
	c := newNode(t)
	d := c.newTenant(t, nil, "pod", "10.244.1.5", "fd00:10:244::5", egress4, egress6)
	d.attach(t)
	d.requireSeen(t, egress4, egress6)
	run("ip address del "+egress4+"/32 dev enp7s0", "ip address del "+egress6+"/128 dev enp7s0")(t, c)
	for _, address := range []string{egress4, egress6} {
		c.on(t, c.Router, "ip", "neigh", "replace", address, "lladdr", "02:00:00:00:00:99", "dev", nettest.RouterSecondLink, "nud", "reachable")
	}
	c.resync(t)
	d.requireSeen(t, egress4, egress6)
}
