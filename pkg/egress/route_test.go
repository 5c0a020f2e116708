package egress_test

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/egress-ip/egress-ip/pkg/egress"
	"github.com/stretchr/testify/require"
)

// spec4 and spec6 are what a configuration without gateway and cluster CIDRs
// says about enp7s0's table.
var (
	spec4 = egress.Table{Table: 1134, Link: "enp7s0", Index: enp7s0, Family: egress.IPv4}
	spec6 = egress.Table{Table: 1134, Link: "enp7s0", Index: enp7s0, Family: egress.IPv6}
)

type edit = func(*egress.Route)

// route is one of main's: dst is "default" or a prefix, nextHop may be empty.
func route(dst string, link int, nextHop string, edits ...edit) egress.Route {
	r := egress.Route{Table: egress.MainTable, Type: egress.Unicast, Link: link, Weight: 1}
	switch dst {
	case "default":
		r.Dst = egress.IPv4.Default()
	case "default6":
		r.Dst = egress.IPv6.Default()
	default:
		r.Dst = prefix(dst)
	}
	if nextHop != "" {
		r.NextHop = addr(nextHop)
	}
	for _, e := range edits {
		e(&r)
	}
	return r
}

func from(p string) edit             { return func(r *egress.Route) { r.From = prefix(p) } }
func metric(m uint32) edit           { return func(r *egress.Route) { r.Metric = m } }
func weight(w uint8) edit            { return func(r *egress.Route) { r.Weight = w } }
func table(id uint32) edit           { return func(r *egress.Route) { r.Table = id } }
func typed(rt egress.RouteType) edit { return func(r *egress.Route) { r.Type = rt } }
func tos(tos uint8) edit             { return func(r *egress.Route) { r.TOS = tos } }
func mtu(bytes uint32, lock bool) edit {
	return func(r *egress.Route) { r.MTU, r.MTULock = bytes, lock }
}
func onlink(r *egress.Route) { r.OnLink = true }

// linkRoutes are those that lead out by the link of a table, where main has these.
func linkRoutes(t egress.Table, main ...egress.Route) []egress.Route {
	t.Main = main
	return t.LinkRoutes()
}

// throws are a table's for these networks.
func throws(t egress.Table, thrown ...string) []egress.Route {
	t.Thrown, t.Down = prefixes(thrown...), true
	return t.Routes()[1:]
}

// in gives routes as they are to be in another table.
func in(id uint32, routes ...egress.Route) []egress.Route {
	for i := range routes {
		routes[i].Table = id
	}
	return routes
}

func TestLinkRoutes(t *testing.T) {
	with := func(s egress.Table, edit func(*egress.Table)) egress.Table { edit(&s); return s }
	cluster := func(list ...string) func(*egress.Table) {
		return func(s *egress.Table) { s.Cluster = prefixes(list...) }
	}
	gateway := func(s egress.Table, a string) egress.Table { s.Gateway = addr(a); return s }
	network := route("192.168.124.0/24", enp7s0, "")
	network6 := route("fd00:124::/64", enp7s0, "", metric(256))

	for name, tt := range map[string]struct {
		spec egress.Table
		main []egress.Route
		want []egress.Route
	}{
		"network and default, as 4.15.10 of OVN-Kubernetes copies them": {
			spec4,
			[]egress.Route{network, route("default", enp7s0, "192.168.124.1", metric(100))},
			in(1134, network, route("default", enp7s0, "192.168.124.1", metric(100))),
		},
		"IPv6 network and default": {
			spec6,
			[]egress.Route{network6, route("default6", enp7s0, "fe80::1", metric(1024))},
			in(1134, network6, route("default6", enp7s0, "fe80::1", metric(1024))),
		},
		"everything that a route says": {
			spec4,
			[]egress.Route{
				route("default", enp7s0, "192.168.200.1", onlink, metric(50), mtu(1400, true), tos(0x10)),
				route("10.9.0.0/16", enp7s0, "192.168.124.9", mtu(1300, false), weight(1)),
				route("10.9.0.0/16", enp7s0, "192.168.124.8", metric(7)),
			},
			in(1134,
				route("default", enp7s0, "192.168.200.1", onlink, metric(50), mtu(1400, true), tos(0x10)),
				route("10.9.0.0/16", enp7s0, "192.168.124.9", mtu(1300, false), weight(1)),
				route("10.9.0.0/16", enp7s0, "192.168.124.8", metric(7)),
			),
		},
		"an IPv4 route by an IPv6 next hop": {
			spec4,
			[]egress.Route{route("default", enp7s0, "fe80::1")},
			in(1134, route("default", enp7s0, "fe80::1")),
		},
		"link routes come before gateway routes, else the order stays": {
			spec4,
			[]egress.Route{
				route("default", enp7s0, "192.168.124.1"), route("10.9.0.0/16", enp7s0, "192.168.124.9"), network,
				route("10.8.0.0/16", enp7s0, "192.168.124.9"), route("10.7.0.0/16", enp7s0, ""),
			},
			in(1134,
				network, route("10.7.0.0/16", enp7s0, ""),
				route("default", enp7s0, "192.168.124.1"), route("10.9.0.0/16", enp7s0, "192.168.124.9"), route("10.8.0.0/16", enp7s0, "192.168.124.9"),
			),
		},

		// What is left out.
		"routes by other links": {
			spec4,
			[]egress.Route{network, route("default", eth0, "10.0.0.1"), route("10.0.0.0/24", eth0, "")},
			in(1134, network, route("default", enp7s0, "")),
		},
		"a default for some sources only, before the one for all": {
			spec6,
			[]egress.Route{
				network6, route("default6", enp7s0, "fe80::bad", metric(1024), from("fd00:bad::/64")),
				route("default6", enp7s0, "fe80::1", metric(1024)),
			},
			in(1134, network6, route("default6", enp7s0, "fe80::1", metric(1024))),
		},
		"no default but one for some sources": {
			gateway(spec6, "fe80::1"),
			[]egress.Route{network6, route("default6", enp7s0, "fe80::bad", metric(1024), from("fd00:bad::/64"))},
			in(1134, network6, route("default6", enp7s0, "fe80::1", metric(1024))),
		},
		"routes of the other family": {
			spec4,
			[]egress.Route{network, network6, route("default6", enp7s0, "fe80::1")},
			in(1134, network, route("default", enp7s0, "")),
		},
		"a multipath keeps its weights": {
			spec4,
			[]egress.Route{
				route("default", enp7s0, "192.168.124.1", weight(3)), route("default", enp7s0, "192.168.124.2", weight(5)), route("default", eth0, "10.0.0.1", weight(7)),
			},
			in(1134, route("default", enp7s0, "192.168.124.1", weight(3)), route("default", enp7s0, "192.168.124.2", weight(5))),
		},
		"a multipath of which one hop is left has weight 1": {
			spec4,
			[]egress.Route{route("default", eth0, "10.0.0.1", weight(7)), route("default", enp7s0, "192.168.124.1", weight(3))},
			in(1134, route("default", enp7s0, "192.168.124.1")),
		},
		"routes that differ in metric or TOS are no multipath": {
			spec4,
			[]egress.Route{
				route("default", enp7s0, "192.168.124.1", weight(3)), route("default", enp7s0, "192.168.124.2", weight(3), metric(9)),
				route("default", enp7s0, "192.168.124.3", weight(3), tos(4)),
			},
			in(1134,
				route("default", enp7s0, "192.168.124.1"), route("default", enp7s0, "192.168.124.2", metric(9)),
				route("default", enp7s0, "192.168.124.3", tos(4)),
			),
		},
		"link-local and multicast destinations": {
			spec4,
			[]egress.Route{network, route("169.254.0.0/16", enp7s0, ""), route("224.0.0.0/4", enp7s0, ""), route("default", enp7s0, "")},
			in(1134, network, route("default", enp7s0, "")),
		},
		"IPv6 link-local and multicast destinations": {
			spec6,
			[]egress.Route{network6, route("fe80::/64", enp7s0, ""), route("ff00::/8", enp7s0, ""), route("default6", enp7s0, "")},
			in(1134, network6, route("default6", enp7s0, "")),
		},
		"routes that lead nowhere": {
			spec4,
			[]egress.Route{
				network, route("10.1.0.0/16", enp7s0, "", typed(egress.Throw)), route("10.2.0.0/16", enp7s0, "", typed(egress.Unreachable)),
				route("10.3.0.0/16", enp7s0, "", typed(egress.Blackhole)), route("default", enp7s0, "", typed(egress.Prohibit)),
			},
			in(1134, network, route("default", enp7s0, "")),
		},
		"routes inside a cluster CIDR": {
			with(spec4, cluster("10.244.0.0/16", "192.168.124.0/25")),
			[]egress.Route{
				network, route("10.244.0.0/16", enp7s0, ""), route("10.244.7.0/24", enp7s0, "192.168.124.7"), route("192.168.124.64/26", enp7s0, ""),
				route("10.244.0.0/15", enp7s0, "192.168.124.7"), route("default", enp7s0, ""),
			},
			in(1134, network, route("default", enp7s0, ""), route("10.244.0.0/15", enp7s0, "192.168.124.7")),
		},
		"a default is inside no cluster CIDR": {
			with(spec6, cluster("::/0")),
			[]egress.Route{route("default6", enp7s0, "fe80::1"), network6},
			in(1134, route("default6", enp7s0, "fe80::1")),
		},

		// The default that main does not have.
		"no route at all": {spec4, nil, in(1134, route("default", enp7s0, ""))},
		"IPv6 has the metric that the kernel gives": {
			spec6, []egress.Route{network6},
			in(1134, network6, route("default6", enp7s0, "", metric(1024))),
		},
		"by the gateway of the link's network": {
			gateway(spec4, "192.168.124.1"), []egress.Route{network},
			in(1134, network, route("default", enp7s0, "192.168.124.1")),
		},
		"by the IPv6 gateway of the link's network": {
			gateway(spec6, "fd00:124::1"), []egress.Route{network6},
			in(1134, network6, route("default6", enp7s0, "fd00:124::1", metric(1024))),
		},
		"by a link-local gateway": {
			gateway(spec6, "fe80::1"), []egress.Route{network6},
			in(1134, network6, route("default6", enp7s0, "fe80::1", metric(1024))),
		},
		"by a gateway on no network": {
			gateway(spec4, "192.168.200.1"), []egress.Route{network},
			in(1134, network, route("default", enp7s0, "192.168.200.1", onlink)),
		},
		"by an IPv6 gateway on no network": {
			gateway(spec6, "fd00:200::1"), []egress.Route{network6},
			in(1134, network6, route("default6", enp7s0, "fd00:200::1", onlink, metric(1024))),
		},
		"by a gateway behind another": {
			gateway(spec4, "10.9.0.1"), []egress.Route{network, route("10.9.0.0/16", enp7s0, "192.168.124.9")},
			in(1134, network, route("10.9.0.0/16", enp7s0, "192.168.124.9"), route("default", enp7s0, "10.9.0.1", onlink)),
		},
		"by a gateway whose network is the cluster's": {
			gateway(with(spec4, cluster("192.168.0.0/16")), "192.168.124.1"), []egress.Route{network},
			in(1134, route("default", enp7s0, "192.168.124.1", onlink)),
		},
		"main's default wins over the gateway": {
			gateway(spec4, "192.168.124.254"), []egress.Route{network, route("default", enp7s0, "192.168.124.1", metric(100))},
			in(1134, network, route("default", enp7s0, "192.168.124.1", metric(100))),
		},

		// A VRF slave's routes are in the VRF's table.
		"a VRF": {
			spec4,
			[]egress.Route{route("192.168.124.0/24", enp7s0, "", table(10)), route("default", enp7s0, "192.168.124.1", table(10))},
			in(1134, network, route("default", enp7s0, "192.168.124.1")),
		},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, tt.want, linkRoutes(tt.spec, tt.main...))
		})
	}
}

// What main holds is compared with again; it must stay what it is.
func TestLinkRoutesLeavesMainAlone(t *testing.T) {
	main := []egress.Route{route("default", enp7s0, "192.168.124.1", weight(3)), route("192.168.124.0/24", enp7s0, "")}

	linkRoutes(spec4, main...)

	require.Equal(t, []egress.Route{route("default", enp7s0, "192.168.124.1", weight(3)), route("192.168.124.0/24", enp7s0, "")}, main)
}

func TestDerivedCluster(t *testing.T) {
	for name, tt := range map[string]struct {
		spec egress.Table
		main []egress.Route
		want []string
	}{
		"no route": {spec4, nil, nil},
		"every route that is no default and not on the link, sorted": {
			spec4,
			[]egress.Route{
				route("default", eth0, "10.0.0.1"), route("default", enp7s0, "192.168.124.1", metric(9)), route("192.168.124.0/24", enp7s0, ""),
				route("192.168.125.0/24", enp8s0, ""), route("10.244.1.0/24", 5, ""), route("10.244.0.0/16", eth0, "10.0.0.7"), route("10.0.0.0/24", eth0, ""),
			},
			[]string{"10.0.0.0/24", "10.244.0.0/16", "10.244.1.0/24", "192.168.125.0/24"},
		},
		"one by several hops, or with several metrics, is there once": {
			spec4,
			[]egress.Route{route("10.9.0.0/16", eth0, "10.0.0.7"), route("10.8.0.0/16", eth0, ""), route("10.9.0.0/16", eth0, "10.0.0.8"), route("10.9.0.0/16", enp8s0, "", metric(9))},
			[]string{"10.8.0.0/16", "10.9.0.0/16"},
		},
		"a network that the link is on, too": {
			spec4,
			[]egress.Route{route("192.168.124.0/24", enp8s0, ""), route("192.168.124.0/24", enp7s0, "", metric(9)), route("10.9.0.0/16", eth0, "", weight(2)), route("10.9.0.0/16", enp7s0, "")},
			nil,
		},
		"routes that lead nowhere": {
			spec4,
			[]egress.Route{route("10.244.0.0/16", 0, "", typed(egress.Blackhole)), route("10.96.0.0/12", 0, "", typed(egress.Unreachable))},
			[]string{"10.96.0.0/12", "10.244.0.0/16"},
		},
		"a default in two halves": {
			spec4, []egress.Route{route("0.0.0.0/1", eth0, ""), route("128.0.0.0/1", eth0, ""), route("10.0.0.0/8", eth0, "")}, []string{"10.0.0.0/8"},
		},
		"a network that holds one of the link's": {
			spec4, []egress.Route{route("192.168.124.0/23", eth0, ""), route("192.168.124.0/24", enp7s0, "")}, []string{"192.168.125.0/24"},
		},
		"a network inside one of the link's": {
			spec4, []egress.Route{route("10.244.1.0/24", eth0, ""), route("10.0.0.0/8", enp7s0, "")}, []string{"10.244.1.0/24"},
		},
		"link-local and multicast destinations": {
			spec4,
			[]egress.Route{route("169.254.0.0/16", eth0, ""), route("224.0.0.0/4", eth0, ""), route("10.0.0.0/24", eth0, "")},
			[]string{"10.0.0.0/24"},
		},
		"IPv6": {
			spec6,
			[]egress.Route{
				route("default6", eth0, "fe80::1"), route("fe80::/64", eth0, ""), route("ff00::/8", eth0, ""), route("fd00:244::/56", eth0, "fd00::7"),
				route("fd00:124::/64", enp7s0, ""), route("10.0.0.0/24", eth0, ""),
			},
			[]string{"fd00:244::/56"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, prefixes(tt.want...), tt.spec.DerivedCluster(tt.main))
		})
	}
}

func TestThrows(t *testing.T) {
	require.Empty(t, throws(spec4))
	require.Equal(t, []egress.Route{
		{Table: 1134, Dst: prefix("10.244.0.0/16"), Type: egress.Throw, Weight: 1},
		{Table: 1134, Dst: prefix("10.96.0.0/12"), Type: egress.Throw, Weight: 1},
	}, throws(spec4, "10.244.0.0/16", "10.96.0.0/12"))
	require.Equal(t, []egress.Route{
		{Table: 1134, Dst: prefix("fd00:244::/56"), Type: egress.Throw, Metric: 1024, Weight: 1},
	}, throws(spec6, "fd00:244::/56"))
}

func TestClosing(t *testing.T) {
	require.Equal(t, egress.Route{Table: 1134, Dst: prefix("0.0.0.0/0"), Type: egress.Unreachable, Metric: 4278198272, Weight: 1}, spec4.Closing())
	require.Equal(t, egress.Route{Table: 1134, Dst: prefix("::/0"), Type: egress.Unreachable, Metric: 4278198272, Weight: 1}, spec6.Closing())
}

func TestRouteKey(t *testing.T) {
	r := route("10.9.0.0/16", enp7s0, "192.168.124.1", metric(7), tos(4))

	require.Equal(t, egress.RouteKey{Dst: prefix("10.9.0.0/16"), TOS: 4, Metric: 7}, r.Key())
	require.Equal(t, r.Key(), route("10.9.0.0/16", eth0, "10.0.0.1", metric(7), tos(4), weight(9), table(1)).Key())
	require.Equal(t, egress.IPv4, r.Family())
	require.Equal(t, egress.IPv6, route("fd00::/64", enp7s0, "").Family())
}

func TestFamily(t *testing.T) {
	require.Equal(t, []egress.Family{4, 6}, egress.Families[:], "the record holds the numbers")
	require.Equal(t, egress.IPv4, egress.FamilyOf(addr("10.244.1.5")))
	require.Equal(t, egress.IPv6, egress.FamilyOf(addr("fd00:244::5")))
	require.Equal(t, prefix("0.0.0.0/0"), egress.IPv4.Default())
	require.Equal(t, prefix("::/0"), egress.IPv6.Default())
	require.Equal(t, prefix("10.244.1.5/32"), egress.Host(addr("10.244.1.5")))
	require.Equal(t, prefix("fd00:244::5/128"), egress.Host(addr("fd00:244::5")))
}

func TestMissing(t *testing.T) {
	a, b, c := route("10.1.0.0/16", enp7s0, ""), route("10.2.0.0/16", enp7s0, ""), route("10.3.0.0/16", enp7s0, "")
	for name, tt := range map[string]struct{ want, have, missing []egress.Route }{
		"all there":                  {[]egress.Route{a, b}, []egress.Route{c, b, a}, nil},
		"nothing there":              {[]egress.Route{c, a, b}, nil, []egress.Route{c, a, b}},
		"some there":                 {[]egress.Route{c, a, b}, []egress.Route{a}, []egress.Route{c, b}},
		"nothing wanted":             {nil, []egress.Route{a}, nil},
		"one that differs in weight": {[]egress.Route{a}, []egress.Route{route("10.1.0.0/16", enp7s0, "", weight(2))}, []egress.Route{a}},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, tt.missing, egress.Missing(tt.want, tt.have))
		})
	}
}

func TestProbe(t *testing.T) {
	probe := func(links ...string) egress.Probe {
		return egress.Probe{Links: links, Source: addr("fe80::1"), Translated: addr("2603::1")}
	}
	other := func(edit func(*egress.Probe)) egress.Probe { p := probe("eth0"); edit(&p); return p }
	for name, tt := range map[string]struct {
		a, b egress.Probe
		want bool
	}{
		"the same":            {probe("eth0", "eth1"), probe("eth0", "eth1"), true},
		"no table":            {egress.Probe{}, egress.Probe{}, true},
		"no link, two ways":   {egress.Probe{Links: []string{}}, egress.Probe{}, true},
		"another link":        {probe("eth0"), probe("eth1"), false},
		"a link more":         {probe("eth0"), probe("eth0", "eth1"), false},
		"no table and one":    {egress.Probe{}, probe("eth0"), false},
		"another source":      {probe("eth0"), other(func(p *egress.Probe) { p.Source = addr("fe80::2") }), false},
		"another translation": {probe("eth0"), other(func(p *egress.Probe) { p.Translated = addr("2603::2") }), false},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, tt.want, tt.a.Equal(tt.b))
			require.Equal(t, tt.want, tt.b.Equal(tt.a))
		})
	}
	require.True(t, probe("eth0").Exists())
	require.False(t, probe().Exists())
	require.False(t, egress.Probe{}.Exists())
}

func TestStrings(t *testing.T) {
	for _, tt := range []struct {
		value interface{ String() string }
		want  string
	}{
		{egress.IPv4, "IPv4"},
		{egress.IPv6, "IPv6"},
		{egress.Rule{Priority: 6000, From: prefix("10.244.1.5/32"), Table: 1134}, "6000: from 10.244.1.5 lookup 1134"},
		{egress.Rule{Priority: 6000, From: prefix("fd00:244::5/128"), Table: 1134}, "6000: from fd00:244::5 lookup 1134"},
		{egress.Address{Link: 134, Address: addr("192.168.124.99")}, "192.168.124.99/32 on if134"},
		{egress.Address{Link: 134, Address: addr("fd00:124::99")}, "fd00:124::99/128 on if134"},
		{egress.Chain{Name: "out_134", Mark: 1, Mask: 15}, "chain out_134 of table inet egress_ip"},
		{
			egress.Element{Set: "snat4", Pod: addr("10.244.1.5"), Link: 134, Address: addr("192.168.124.99"), Owner: "c1"},
			`element { 10.244.1.5 . "if134" : 192.168.124.99 } of map snat4 in table inet egress_ip`,
		},
		{
			egress.Element{Set: "out4", Pod: addr("10.244.1.5"), Chain: "out_134", Owner: "c1"},
			"element { 10.244.1.5 : goto out_134 } of map out4 in table inet egress_ip",
		},
		{
			egress.Element{Set: "cluster4", Net: netip.MustParsePrefix("10.244.0.0/16")},
			"element { 10.244.0.0/16 } of set cluster4 in table inet egress_ip",
		},
		{egress.UnmarkedElement(), "element { 0 : goto others } of map unmarked in table inet egress_ip"},
		{route("192.168.124.0/24", enp7s0, ""), "192.168.124.0/24 dev if134 table 254"},
		{route("192.168.124.7/32", enp7s0, ""), "192.168.124.7 dev if134 table 254"},
		{route("fd00:124::7/128", enp7s0, ""), "fd00:124::7 dev if134 table 254"},
		{route("default", enp7s0, "192.168.124.1", table(1134)), "default via 192.168.124.1 dev if134 table 1134"},
		{route("default6", enp7s0, "fe80::1", metric(1024)), "default via fe80::1 dev if134 metric 1024 table 254"},
		{
			route("10.9.0.0/16", enp7s0, "192.168.124.9", tos(8), onlink, weight(3), metric(7), mtu(1400, false)),
			"10.9.0.0/16 tos 0x08 via 192.168.124.9 dev if134 onlink weight 3 metric 7 mtu 1400 table 254",
		},
		{route("default", enp7s0, "192.168.124.1", weight(2)), "default via 192.168.124.1 dev if134 weight 2 table 254"},
		{route("10.9.0.0/16", enp7s0, "", mtu(1400, true)), "10.9.0.0/16 dev if134 mtu lock 1400 table 254"},
		{throws(spec4, "10.244.0.0/16")[0], "throw 10.244.0.0/16 table 1134"},
		{throws(spec6, "fd00:244::/56")[0], "throw fd00:244::/56 metric 1024 table 1134"},
		{spec4.Closing(), "unreachable default metric 4278198272 table 1134"},
		{spec6.Closing(), "unreachable default metric 4278198272 table 1134"},
		{route("10.1.0.0/16", 0, "", typed(egress.Blackhole)), "blackhole 10.1.0.0/16 table 254"},
		{route("10.1.0.0/16", 0, "", typed(egress.Prohibit)), "prohibit 10.1.0.0/16 table 254"},
	} {
		t.Run(tt.want, func(t *testing.T) {
			require.Equal(t, tt.want, tt.value.String())
		})
	}
}

// The numbers of the kernel: what is read from it is compared with them.
func TestRouteTypesAreTheKernels(t *testing.T) {
	require.Equal(t, []egress.RouteType{1, 6, 7, 8, 9}, []egress.RouteType{egress.Unicast, egress.Blackhole, egress.Unreachable, egress.Prohibit, egress.Throw})
	require.EqualValues(t, 254, egress.MainTable)
}

func TestAttachment(t *testing.T) {
	a := egress.Attachment{
		Owner:        egress.Owner{ContainerID: "c1", IfName: "eth0"},
		RulePriority: 6000,
		ClusterCIDRs: prefixes("10.244.0.0/16", "fd00:244::/56", "10.96.0.0/12"),
	}
	f := by(free("10.244.1.5", "192.168.124.99"), "192.168.124.1")
	f6 := free("fd00:244::5", "fd00:124::99")

	f.Mark, a.MarkMask = 0x01000000, 0x0f000000
	require.Equal(t, []string{
		"6001: from all nop",
		"5999: not from all fwmark 0/0xf000000 goto 6001",
		"5999: from all iif lo goto 6001",
		"5999: from all to 10.244.0.0/16 goto 6001",
		"5999: from all to 10.96.0.0/12 goto 6001",
		"5998: from all fwmark 0x1000000/0xf000000 lookup 1134",
		"6000: from 10.244.1.5 lookup 1134",
	}, texts(a.Rules(f)))
	for _, r := range a.Rules(f6) {
		require.Equal(t, egress.IPv6, r.Family)
	}
	require.Equal(t, egress.Address{Link: enp7s0, Address: addr("192.168.124.99")}, f.HostAddress())
	require.Equal(t, egress.Route{Table: 1134, Dst: prefix("10.244.1.5/32"), Type: egress.Throw, Weight: 1}, f.PodThrow())
	require.Equal(t, egress.Route{Table: 1134, Dst: prefix("fd00:244::5/128"), Type: egress.Throw, Metric: 1024, Weight: 1}, f6.PodThrow())
	require.Equal(t, egress.IPv4, f.Family())
	require.Equal(t, egress.IPv6, f6.Family())
	require.Equal(t, egress.Table{
		Table: 1134, Link: "enp7s0", Index: enp7s0, Family: egress.IPv4, Gateway: addr("192.168.124.1"), Cluster: prefixes("10.244.0.0/16", "10.96.0.0/12"),
	}, a.Table(f))
	require.Equal(t, egress.Table{
		Table: 1134, Link: "enp7s0", Index: enp7s0, Family: egress.IPv6, Cluster: prefixes("fd00:244::/56"),
	}, a.Table(f6))
	a.ClusterCIDRs = nil
	require.Equal(t, spec6, a.Table(f6))
}

// CNI lets a container ID be of any length; nft lets a comment be 128 bytes.
func TestOwnerFitsAComment(t *testing.T) {
	id := make([]byte, 200)
	for i := range id {
		id[i] = 'a' + byte(i%26)
	}
	for length, want := range map[int]int{1: 1, 64: 64, 128: 128, 129: 128, 200: 128} {
		a := egress.Attachment{Owner: egress.Owner{ContainerID: string(id[:length])}}
		require.Equal(t, string(id[:want]), a.Comment())
	}
}

func texts(rules []egress.Rule) []string {
	var s []string
	for _, r := range rules {
		s = append(s, r.String())
	}
	return s
}

// The rules keep their order at either end of the range; rules of one priority are
// in the order in which they were added, the kernel's own, 0, before them.
func TestPriorities(t *testing.T) {
	for source, want := range map[uint32]egress.Priorities{
		1:     {Link: 0, Skip: 1, Source: 1, Behind: 2},
		2:     {Link: 0, Skip: 1, Source: 2, Behind: 3},
		3:     {Link: 1, Skip: 2, Source: 3, Behind: 4},
		6000:  {Link: 5998, Skip: 5999, Source: 6000, Behind: 6001},
		32765: {Link: 32763, Skip: 32764, Source: 32765, Behind: 32766},
	} {
		require.Equal(t, want, egress.PrioritiesAround(source))
	}
}

func TestMarks(t *testing.T) {
	for mask, want := range map[uint32][]uint32{
		0x03000000: {0x01000000, 0x02000000},
		0x00000007: {1, 2, 3, 4, 5, 6},
		0xc0000000: {0x40000000, 0x80000000},
	} {
		require.Equal(t, want, slices.Collect(egress.Marks(mask)))
	}
}

// Main may hold a default without a next hop: a configured one is better.
func TestGatewayWinsOverDefaultDev(t *testing.T) {
	spec := egress.Table{Table: 1134, Link: "enp7s0", Index: enp7s0, Family: egress.IPv4, Gateway: addr("192.168.124.1")}
	routes := linkRoutes(spec, route("192.168.124.0/24", enp7s0, ""), route("default", enp7s0, ""))
	require.Equal(t, []egress.Route{
		route("192.168.124.0/24", enp7s0, "", table(1134)),
		route("default", enp7s0, "192.168.124.1", table(1134)),
	}, routes)
}
