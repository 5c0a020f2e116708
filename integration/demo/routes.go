package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const tableBase = 1000

// The server's address, which is beyond the links' own networks.
var server4 = netip.MustParseAddr(nettest.ServerIPv4)

// routes is the second act: the table of OVN-Kubernetes 4.15.9, with a link but
// no next hop, and that of 4.15.10 and of egress-ip, with the link's routes. The
// demo makes both by hand, for the plain pod, and takes them away again.
func routes(t *teller, n *node, plain *pod) {
	link := n.Node.Index(t, nettest.SecondLink)
	table := tableBase + link
	rt := n.Node.Netlink()
	n.Router.ServeWhoAmI(t, nettest.WhoAmIPort) // something to talk to on the link's own subnet

	t.heading("2. Why the link's routes are copied: without a next hop, the whole internet is a neighbour")
	rule := netlink.NewRule()
	rule.Priority, rule.Table, rule.Family = 6000, table, netlink.FAMILY_V4
	rule.Src = &net.IPNet{IP: plain.IPv4.AsSlice(), Mask: net.CIDRMask(32, 32)}
	t.must(rt.RuleAdd(rule))
	n.Node.AddRoute(t, nettest.Route{Dst: "0.0.0.0/0", Link: nettest.SecondLink, Table: table})

	r := n.read(t)
	t.print("   OVN-Kubernetes 4.15.9, its scheme put up by hand for the plain pod:")
	t.print("     ip rule        %s", ourRule(t, r, table))
	tableRows(t, r, table)
	linkRow(t, plain)
	arp := n.Router.Capture(t, nettest.RouterSecondLink)
	icmp := plain.Capture(t, "eth0")
	took, err := dial(t, plain, nettest.ServerAskIPv4)
	asked := arp.Count(func(p nettest.Packet) bool { return p.EtherType == unix.ETH_P_ARP && p.Dst == server4 })
	told := icmp.Count(isUnreachable)
	arp.Stop()
	icmp.Stop()
	if !errors.Is(err, unix.EHOSTUNREACH) || asked == 0 || told == 0 {
		t.Fatalf("with no next hop in its table, the pod's connection to %s should end in no route to host, after ARP requests "+
			"on the link (%d seen) and an ICMP unreachable from the node (%d seen); it ended: %v", server4, asked, told, err)
	}
	from := icmp.Packets()[slices.IndexFunc(icmp.Packets(), isUnreachable)].Src
	t.print("     %-14s %s, after %.1f s: the node asked enp7s0 by ARP who has this address, %d times,",
		server4, t.bad(errorText(err)), took.Seconds(), asked)
	t.print("     %-14s got no answer, and sent the pod ICMP host unreachable (from %s)", "", from)

	n.Node.DeleteRoute(t, nettest.Route{Dst: "0.0.0.0/0", Link: nettest.SecondLink, Table: table})
	copied := copyRoutes(t, rt, link, table)
	r = n.read(t)
	t.print("   4.15.10 copies into it what the main table has for enp7s0, as egress-ip does:")
	tableRows(t, r, table)
	linkRow(t, plain)
	saw := see(t, plain, nettest.ServerAskIPv4)
	if saw != second4 {
		t.Fatalf("with the routes copied, the server should see the link's own address %s, and saw %s", second4, saw)
	}
	t.print("     %-14s %s", server4, t.good("answers "+saw.String())+", beyond it")

	for _, route := range copied {
		t.must(rt.RouteDel(&route))
	}
	t.must(rt.RuleDel(rule))
}

// tableRows shows a table as it is.
func tableRows(t *teller, r reading, table int) {
	for _, text := range r.routesOf(table) {
		t.print("     %-14s %s", tableName(table), text)
	}
}

// linkRow asks the router, on the link's own subnet.
func linkRow(t *teller, p *pod) {
	address := netip.AddrPortFrom(netip.MustParseAddr(nettest.SecondGatewayIPv4), nettest.WhoAmIPort)
	saw := see(t, p, address.String())
	if saw != second4 {
		t.Fatalf("the router on the subnet of %s should see %s, and saw %s", nettest.SecondLink, second4, saw)
	}
	t.print("     %-14s %s", address.Addr(), t.good("answers "+saw.String())+", on the link's own subnet")
}

// ourRule returns the one rule that looks into a table.
func ourRule(t *teller, r reading, table int) string {
	for _, l := range r.of(ruleLine) {
		if strings.HasSuffix(l.text, fmt.Sprintf(" lookup %d", table)) {
			return l.text
		}
	}
	t.Fatalf("no rule looks into table %d", table)
	return ""
}

// copyRoutes copies the routes of the main table for a link, those without a
// next hop first: the kernel looks a next hop up when the route is added.
func copyRoutes(t *teller, rt *netlink.Handle, link, table int) []netlink.Route {
	copied, err := again(func() ([]netlink.Route, error) {
		of := &netlink.Route{LinkIndex: link, Table: unix.RT_TABLE_MAIN}
		return rt.RouteListFiltered(netlink.FAMILY_V4, of, netlink.RT_FILTER_OIF|netlink.RT_FILTER_TABLE)
	})
	t.must(err)
	slices.SortStableFunc(copied, func(a, b netlink.Route) int { return len(a.Gw) - len(b.Gw) })
	for i := range copied {
		copied[i].Table, copied[i].Src, copied[i].Flags = table, nil, 0
		t.must(rt.RouteAdd(&copied[i]))
	}
	return copied
}

// dialTimeout is more than the three seconds that the kernel tries ARP for.
const dialTimeout = 8 * time.Second

// dial connects, and says how long it took to succeed or fail.
func dial(t *teller, p *pod, address string) (took time.Duration, err error) {
	t.goOn()
	began := time.Now()
	p.Do(t, func() {
		var conn net.Conn
		conn, err = (&net.Dialer{Timeout: dialTimeout}).DialContext(t.ctx, "tcp", address)
		if err == nil {
			conn.Close()
		}
	})
	t.goOn()
	return time.Since(began), err
}

func isUnreachable(p nettest.Packet) bool {
	const unreachable = 3
	return p.Protocol == unix.IPPROTO_ICMP && p.ICMPType == unreachable && !p.Outgoing
}

// errorText is the error alone, without what the libraries put before it.
func errorText(err error) string {
	var errno syscall.Errno
	var timeout net.Error
	switch {
	case errors.As(err, &errno):
		return errno.Error()
	case errors.As(err, &timeout) && timeout.Timeout():
		return "timeout"
	}
	return err.Error()
}
