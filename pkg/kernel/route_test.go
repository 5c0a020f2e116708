package kernel

import (
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"github.com/egress-ip/egress-ip/pkg/egress"
	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// newRoutes is a namespace with a link, eth0, on which there are the networks
// 192.0.2.0/24 and 2001:db8::/64, and a connection to it.
func newRoutes(t *testing.T) (node *nettest.Namespace, k *Kernel) {
	t.Helper()
	node = nettest.New(t, "node")
	nettest.Connect(t, node, "eth0", nettest.New(t, "world"), "eth0")
	node.AddAddress(t, "eth0", "192.0.2.10/24")
	node.AddAddress(t, "eth0", "2001:db8::10/64")
	var err error
	node.Do(t, func() { // its sockets, too, are opened there
		k = Open()
		k.rt()
		_, err = k.routeRequest(unix.RTM_GETROUTE, 0)
	})
	require.NoError(t, err)
	t.Cleanup(k.Close)
	return node, k
}

// A route that was written is read as it was.
func TestRouteBothWays(t *testing.T) {
	t.Parallel()
	node, k := newRoutes(t)
	route := func(dst, nextHop string, edit func(*egress.Route)) egress.Route {
		r := egress.Route{Table: 1134, Dst: netip.MustParsePrefix(dst), Metric: 7, Type: egress.Unicast, Link: node.Index(t, "eth0"), Weight: 1}
		if nextHop != "" {
			r.NextHop = netip.MustParseAddr(nextHop)
		}
		if edit != nil {
			edit(&r)
		}
		return r
	}
	onLink := func(r *egress.Route) { r.OnLink = true }
	weight := func(r *egress.Route) { r.Weight = 3 }
	typed := func(as egress.RouteType) func(*egress.Route) {
		return func(r *egress.Route) { r.Type, r.Link = as, 0 }
	}
	for name, hops := range map[string][]egress.Route{
		"on the link":         {route("198.51.100.0/24", "", nil)},
		"by a next hop":       {route("198.51.100.0/24", "192.0.2.7", nil)},
		"default":             {route("0.0.0.0/0", "192.0.2.7", nil)},
		"onlink":              {route("198.51.100.0/24", "198.18.0.1", onLink)},
		"TOS and MTU":         {route("198.51.100.0/24", "192.0.2.7", func(r *egress.Route) { r.TOS, r.MTU = 8, 1400 })},
		"locked MTU":          {route("198.51.100.0/24", "192.0.2.7", func(r *egress.Route) { r.MTU, r.MTULock = 1400, true })},
		"by an IPv6 next hop": {route("198.51.100.0/24", "fe80::7", nil)},
		"multipath":           {route("198.51.100.0/24", "192.0.2.7", weight), route("198.51.100.0/24", "192.0.2.8", nil)},
		"throw":               {route("198.51.100.0/24", "", typed(egress.Throw))},
		"unreachable":         {route("0.0.0.0/0", "", typed(egress.Unreachable))},
		"IPv6 on the link":    {route("2001:db8:51::/64", "", nil)},
		"IPv6 by a next hop":  {route("::/0", "fe80::7", nil)},
		"IPv6 onlink":         {route("::/0", "2001:db8:99::1", onLink)},
		"IPv6 multipath":      {route("2001:db8:51::/64", "fe80::7", weight), route("2001:db8:51::/64", "fe80::8", nil)},
		"IPv6 throw":          {route("2001:db8:51::/64", "", typed(egress.Throw))},
		"IPv6 blackhole":      {route("2001:db8:51::/64", "", typed(egress.Blackhole))},
	} {
		t.Run(name, func(t *testing.T) {
			require.NoError(t, k.addRoute(hops))
			have, err := k.AllRoutes(hops[0].Family(), 1134)
			require.NoError(t, err)
			require.ElementsMatch(t, hops, have)
			require.NoError(t, k.deleteRoute(hops, unix.RTPROT_KERNEL))
			have, err = k.AllRoutes(hops[0].Family(), 1134)
			require.NoError(t, err)
			require.Empty(t, have)
		})
	}
}

// What others have written is read as `ip` shows it, but for what no route of ours
// could say: it is not read at all.
func TestRoutesOfOthers(t *testing.T) {
	t.Parallel()
	node, k := newRoutes(t)
	table := uint32(1134) // one for each
	for written, want := range map[string]string{
		"198.51.100.0/24 via 192.0.2.7 dev eth0 src 192.0.2.10":                               "198.51.100.0/24 via 192.0.2.7 dev eth0",
		"prohibit 198.51.101.0/24":                                                            "prohibit 198.51.101.0/24",
		"198.51.102.0/24 encap ip id 7 dst 192.0.2.9 dev eth0":                                "",
		"198.51.103.0/24 nexthop via 192.0.2.7 weight 2 nexthop dev eth0":                     "198.51.103.0/24 via 192.0.2.7 dev eth0 weight 2, 198.51.103.0/24 dev eth0",
		"default from fd00:bad::/64 via fe80::bad dev eth0":                                   "default from fd00:bad::/64 via fe80::bad dev eth0 metric 1024",
		"2001:db8:51::/64 from fd00:bad::7 via fe80::7 dev eth0 mtu 1400":                     "2001:db8:51::/64 from fd00:bad::7 via fe80::7 dev eth0 metric 1024 mtu 1400",
		"unreachable 2001:db8:52::/64":                                                        "unreachable 2001:db8:52::/64 metric 1024",
		"2001:db8:53::/64 nexthop via fe80::7 dev eth0 nexthop via fe80::8 dev eth0 weight 4": "2001:db8:53::/64 via fe80::7 dev eth0 metric 1024, 2001:db8:53::/64 via fe80::8 dev eth0 weight 4 metric 1024",
	} {
		t.Run(written, func(t *testing.T) {
			family, ip := egress.IPv4, "-4"
			if strings.Contains(written, ":") {
				family, ip = egress.IPv6, "-6"
			}
			table++
			args := append([]string{ip, "route", "add", "table", fmt.Sprint(table)}, strings.Fields(strings.ReplaceAll(written, ", ", " "))...)
			require.NoError(t, node.Run(exec.Command("ip", args...)))
			routes, err := k.AllRoutes(family, table)
			require.NoError(t, err)
			var have []string
			for _, r := range routes {
				have = append(have, r.Text("eth0"))
			}
			require.Equal(t, want, strings.Join(have, ", "))
		})
	}
}

// An answer that is cut short, or says other lengths than it has, is an error and no
// more.
func FuzzParseRoute(f *testing.F) {
	f.Add([]byte{unix.AF_INET, 24, 0, 0, 254, 2, 253, 1, 0, 0, 0, 0, 8, 0, 1, 0, 192, 0, 2, 0, 8, 0, 4, 0, 3, 0, 0, 0})
	f.Add([]byte{unix.AF_INET6, 0, 64, 0, 254, 2, 0, 1, 0, 0, 0, 0, 8, 0, 9, 0, 8, 0, 0, 3})
	f.Fuzz(func(t *testing.T, m []byte) {
		if r, err := parseRoute(m); err == nil {
			for _, hop := range r.hops {
				_ = hop.String()
			}
		}
	})
}
