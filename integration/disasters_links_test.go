package integration

import (
	"testing"

	"github.com/egress-ip/egress-ip/pkg/nettest"
)

// linkDisasters are those of links and their addresses. A link that goes down
// loses its routes and its IPv6 addresses; pods' packets are refused.
func linkDisasters() []disaster {
	flap := func(links ...uplink) (do, daemon func(*testing.T, *cluster)) {
		return func(t *testing.T, c *cluster) {
				for _, u := range links {
					u.down(t, c)
				}
			}, func(t *testing.T, c *cluster) {
				for _, u := range links {
					u.up(t, c)
				}
			}
	}
	remake := func(links ...uplink) (do, daemon func(*testing.T, *cluster)) {
		return func(t *testing.T, c *cluster) {
				for _, u := range links {
					c.Node.DeleteLink(t, u.name)
				}
			}, func(t *testing.T, c *cluster) {
				for _, u := range links {
					u.remake(t, c)
				}
			}
	}
	var all []disaster
	for _, d := range []struct {
		name   string
		links  []uplink
		config object
		wide   bool
	}{
		{"enp7s0", []uplink{second}, nil, false},
		{"enp7s0, no cluster networks configured", []uplink{second}, derived, false},
		{"both egress links", []uplink{second, third}, nil, true},
		{"all links", []uplink{primary, second, third}, derived, true},
	} {
		down, up := flap(d.links...)
		all = append(all, disaster{name: "link down and up, " + d.name, config: d.config, wide: d.wide, do: down, daemon: up, anew: true})
		if d.links[0].name == nettest.PrimaryLink {
			continue
		}
		remove, make := remake(d.links...)
		all = append(all, disaster{name: "link made anew, " + d.name, config: d.config, wide: d.wide, do: remove, daemon: make, anew: true})
	}
	return append(all,
		disaster{name: "IPv4 address deleted", do: run("ip address del " + egress4 + "/32 dev enp7s0")},
		disaster{name: "IPv6 address deleted", do: run("ip address del " + egress6 + "/128 dev enp7s0")},
		disaster{name: "addresses deleted", do: run("ip address del "+egress4+"/32 dev enp7s0", "ip address del "+egress6+"/128 dev enp7s0",
			"ip address del "+other4+"/32 dev enp7s0", "ip address del "+other6+"/128 dev enp7s0")},
		disaster{
			name: "src_valid_mark cleared", silent: true, do: clearMark, prepare: strict,
		},
	)
}

// mainDisasters are changes of the main table that the links' tables have to follow.
func mainDisasters() []disaster {
	routers := func(t *testing.T, c *cluster) { // of enp7s0 there are two
		c.Router.AddAddress(t, nettest.RouterSecondLink, "192.168.124.7/24")
		c.Router.AddAddress(t, nettest.RouterSecondLink, "fd00:124::7/64")
	}
	return []disaster{
		{
			name: "gateway changed", prepare: routers,
			do: run("ip route replace default via 192.168.124.7 dev enp7s0 metric 200",
				"ip -6 route add default via fd00:124::7 dev enp7s0 metric 2040", "ip -6 route del default via fd00:124::1"),
			until: []string{
				"default via 192.168.124.7 dev enp7s0 table OF-enp7s0 proto kernel scope global metric 200 \n",
				"default via fd00:124::7 dev enp7s0 table OF-enp7s0 proto kernel scope global metric 2040 ",
			},
		},
		{
			name: "MTU changed",
			do: run("ip route replace default via 192.168.124.1 dev enp7s0 metric 200 mtu 1400",
				"ip -6 route replace default via fd00:124::1 dev enp7s0 metric 2048 mtu 1400"),
			until: []string{
				"default via 192.168.124.1 dev enp7s0 table OF-enp7s0 proto kernel scope global metric 200 mtu 1400 \n",
				"default via fd00:124::1 dev enp7s0 table OF-enp7s0 proto kernel scope global metric 2048 mtu 1400 ",
			},
		},
		{
			name: "defaults go", config: object{"links": twoLinks(nettest.SecondGatewayIPv4, nettest.SecondGatewayIPv6)},
			do: run("ip route del default dev enp7s0", "ip -6 route del default dev enp7s0"),
			until: []string{
				"default via 192.168.124.1 dev enp7s0 table OF-enp7s0 proto kernel scope global \n",
				"default via fd00:124::1 dev enp7s0 table OF-enp7s0 proto kernel scope global metric 1024 ",
			},
		},
		{
			name: "routes come",
			do: run("ip route add 198.51.100.0/24 via 192.168.124.1 dev enp7s0", "ip -6 route add 2001:db8:51::/64 via fd00:124::1 dev enp7s0",
				"ip route add 198.51.101.0/24 nexthop via 192.168.124.1 dev enp7s0 nexthop via 192.168.124.2 dev enp7s0"),
			until: []string{
				"198.51.100.0/24 via 192.168.124.1 dev enp7s0 table OF-enp7s0 ", "2001:db8:51::/64 via fd00:124::1 dev enp7s0 table OF-enp7s0 ",
				"198.51.101.0/24 table OF-enp7s0 proto kernel scope global nexthop via 192.168.124.1 dev enp7s0 weight 1 nexthop via 192.168.124.2 dev enp7s0 weight 1",
			},
		},
		{
			name: "cluster routes come", config: derived,
			do: run("ip route add 10.9.0.0/16 via 192.0.2.1", "ip -6 route add fd00:9::/64 via 2001:db8:1::1"),
			until: []string{
				"throw 10.9.0.0/16 table OF-enp7s0 ", "throw 10.9.0.0/16 table OF-enp8s0 ",
				"throw fd00:9::/64 dev lo table OF-enp7s0 ", "throw fd00:9::/64 dev lo table OF-enp8s0 ",
			},
		},
		{
			name: "cluster routes go", config: derived,
			prepare: run("ip route add 10.9.0.0/16 via 192.0.2.1", "ip -6 route add fd00:9::/64 via 2001:db8:1::1"),
			do:      run("ip route del 10.9.0.0/16", "ip -6 route del fd00:9::/64"),
			gone:    []string{"throw 10.9.0.0/16", "throw fd00:9::/64"},
		},
	}
}
