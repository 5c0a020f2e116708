package integration

import (
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// outage is how a link goes down and comes back.
type outage struct{ down, up func(*testing.T, *cluster) }

func (k linkKind) outages() []outage {
	goes := outage{onNode("link set " + k.name + " down"), onNode("link set " + k.name + " up")}
	if k.down != nil {
		goes = outage{k.down, k.up}
	}
	if k.own { // without its address a link that is up ends its pods' connections, so the address comes first
		goes.up = func(*testing.T, *cluster) {}
	}
	return []outage{goes, {onNode("link delete " + k.name), k.create}}
}

// awaitHealthy waits until the watcher has opened the way again.
func (l *linkTest) awaitHealthy(t *testing.T) {
	t.Helper()
	table := 1000 + l.Node.Index(t, l.name)
	require.Eventually(t, func() bool { return l.leads(table, unix.AF_INET) && l.leads(table, unix.AF_INET6) }, waitFor, tick)
	require.Eventually(t, func() bool {
		return l.Node.Run(exec.Command(filepath.Join(bin, "egress-ip"), "status")) == nil
	}, waitFor, tick)
}

// leads reports whether a table has a way out.
func (l *linkTest) leads(table, family int) bool {
	routes, err := l.Node.Netlink().RouteListFiltered(family, &netlink.Route{Table: table, Type: unix.RTN_UNICAST}, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_TYPE)
	return err != nil || len(routes) > 0
}

// requireRefused: as soon as the link's table leads nowhere, the pod is told so.
func (l *linkTest) requireRefused(t *testing.T, table int) {
	t.Helper()
	for server := range l.seen() {
		family := unix.AF_INET6
		if isIPv4(server) {
			family = unix.AF_INET
		}
		require.Eventually(t, func() bool { return !l.leads(table, family) }, waitFor, tick)
		refusals := l.pod.Capture(t, "eth0")
		conn := dialUDP(t, l.pod.Namespace, asked(server))
		// Who sends more than a packet in two seconds is not told any more: two limits share
		// one allowance (ip_error in net/ipv4/route.c, icmpv4_xrlim_allow).
		again := time.Time{}
		require.Eventually(t, func() bool {
			if time.Now().After(again) {
				_, _ = conn.Write([]byte("?"))
				again = time.Now().Add(2100 * time.Millisecond)
			}
			return refusals.Count(func(p nettest.Packet) bool {
				return p.Protocol == unix.IPPROTO_ICMP && p.ICMPType == 3 || p.Protocol == unix.IPPROTO_ICMPV6 && p.ICMPType == 1
			}) > 0
		}, waitFor, tick, server)
		refusals.Stop()
		conn.Close()
	}
	l.plain.requireSeen(t, neighbour4, neighbour6)
}
