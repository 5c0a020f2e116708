package integration

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// leaks watches the two links by which packets of egress connections, those that
// annotated pods open to the outside, could get out wrong: the primary link, by
// which not one of them may go, and the second, by which none may go with a pod's
// address. What answers a connection from outside is no leak.
type leaks struct {
	primary, second *nettest.Capture // at the router
	pods            []sandbox
	atPods          []*nettest.Capture
	raw             map[netip.Addr]bool // the pods' addresses
	egress          map[netip.Addr]bool // addresses that are for egress alone
}

// sandbox is a [pod] or a [direct].
type sandbox interface {
	Addresses(t nettest.T, link string) []netip.Prefix
	Capture(t nettest.T, link string) *nettest.Capture
	Ask(network, address string) (netip.Addr, error)
}

// answered is how many of its questions are answered, whose server sees whatever source: a question over each of the networks
// and both address families, all at once, since what is dropped takes as long as nobody answers.
func answered(from sandbox, networks ...string) int {
	var asking sync.WaitGroup
	var answers atomic.Int32
	for _, server := range []string{nettest.ServerAskIPv4, nettest.ServerAskIPv6} {
		for _, network := range networks {
			asking.Go(func() {
				if _, err := from.Ask(network, server); err == nil {
					answers.Add(1)
				}
			})
		}
	}
	asking.Wait()
	return int(answers.Load())
}

// watchLeaks watches from now on; the pods have had their ADD.
func watchLeaks(t *testing.T, c *cluster, pods ...sandbox) *leaks {
	t.Helper()
	l := &leaks{
		primary: c.Router.Capture(t, nettest.RouterPrimaryLink),
		second:  c.Router.Capture(t, nettest.RouterSecondLink),
		pods:    pods,
		raw:     map[netip.Addr]bool{}, egress: map[netip.Addr]bool{},
	}
	for _, p := range pods {
		l.atPods = append(l.atPods, p.Capture(t, "eth0"))
		for _, a := range p.Addresses(t, "eth0") {
			if !a.Addr().IsLinkLocalUnicast() {
				l.raw[a.Addr()] = true
			}
		}
	}
	for _, a := range c.Node.Addresses(t, nettest.SecondLink) {
		l.egress[a.Addr()] = a.IsSingleIP()
	}
	return l
}

// except leaves out pods' addresses that have no egress address.
func (l *leaks) except(pods ...string) *leaks {
	for _, p := range pods {
		delete(l.raw, netip.MustParseAddr(p))
	}
	return l
}

// opening is a connection as its opener's packets show it. The source address is
// left out: it is another one wherever it was translated.
type opening struct {
	protocol         uint8
	srcPort, dstPort uint16
	dst              netip.Addr
}

func openingOf(p nettest.Packet) opening {
	return opening{p.Protocol, p.SrcPort, p.DstPort, p.Dst}
}

// canOpen leaves out ARP, neighbour discovery, and ICMP errors and answers.
func canOpen(p nettest.Packet) bool {
	const echo4, echo6 = 8, 128
	switch p.Protocol {
	case unix.IPPROTO_TCP, unix.IPPROTO_UDP:
		return !inCluster(p.Dst)
	case unix.IPPROTO_ICMP:
		return p.ICMPType == echo4 && !inCluster(p.Dst)
	case unix.IPPROTO_ICMPV6:
		return p.ICMPType == echo6 && !inCluster(p.Dst)
	}
	return false
}

// inCluster: such destinations never leave by the egress link.
func inCluster(a netip.Addr) bool {
	for _, prefix := range []string{"10.244.0.0/16", "10.96.0.0/12", "fd00:10:244::/56"} {
		if netip.MustParsePrefix(prefix).Contains(a) {
			return true
		}
	}
	return false
}

// connections returns what the pods have opened, and what they have answered, both
// as the pods' own packets show it.
func (l *leaks) connections() (opened, answered map[opening]bool) {
	opened, answered = map[opening]bool{}, map[opening]bool{}
	for _, capture := range l.atPods {
		for _, p := range capture.Packets() {
			if !p.Outgoing {
				answer := opening{p.Protocol, p.DstPort, p.SrcPort, p.Src}
				answered[answer] = answered[answer] || !opened[answer]
			} else if l.raw[p.Src] && canOpen(p) && !answered[openingOf(p)] {
				opened[openingOf(p)] = true
			}
		}
	}
	return opened, answered
}

// requireNone: no packet of an egress connection has left by the primary link, and
// none by the second with a pod's address. A watch in which no pod has opened a
// connection fails, for it proves nothing.
func (l *leaks) requireNone(t *testing.T) {
	t.Helper()
	l.requireNoneByPrimary(t)
	for _, p := range l.primary.Packets() {
		if !p.Outgoing && l.egress[p.Src] {
			require.Fail(t, "left by the primary link with an egress address", "%s", p)
		}
	}
	_, answered := l.connections()
	for _, p := range l.second.Packets() {
		if !p.Outgoing && l.raw[p.Src] && !answered[openingOf(p)] {
			require.Fail(t, "left by the second link with the pod's address", "%s", p)
		}
	}
}

// requireNoneByPrimary is what holds of requireNone when nftables, which gives
// pods the egress address, has been flushed. From then on it is the node that has
// the address, and that refuses what is sent to it. It also refuses, with its own address,
// late answers to what left by the primary link before the watch began.
func (l *leaks) requireNoneByPrimary(t *testing.T) {
	t.Helper()
	opened, _ := l.connections()
	require.NotEmpty(t, opened, "no pod has opened a connection to the outside")
	refused := map[opening]bool{}
	for _, capture := range l.atPods {
		for _, p := range capture.Packets() {
			refused[openingOf(p)] = refused[openingOf(p)] || p.Outgoing && p.Reset
		}
	}
	for _, p := range l.primary.Packets() {
		byNode := p.Reset && !refused[openingOf(p)]
		if !p.Outgoing && !l.egress[p.Src] && opened[openingOf(p)] && !byNode {
			require.Fail(t, "left by the primary link", "%s", p)
		}
	}
}

// requireNoneFlushed is requireNone; and when nftables is flushed while the pods
// are opening connections, still none leaves by the primary link.
func (l *leaks) requireNoneFlushed(t *testing.T, c *cluster) {
	t.Helper()
	l.requireNone(t)
	var asking sync.WaitGroup
	stop := make(chan struct{})
	end := sync.OnceFunc(func() { close(stop); asking.Wait() })
	defer end() // also where a check below ends the test
	for _, p := range l.pods {
		for _, server := range []string{nettest.ServerAskIPv4, nettest.ServerAskIPv6} {
			for _, network := range []string{"tcp", "udp"} {
				asking.Go(func() {
					for {
						select {
						case <-stop:
							return
						case <-time.After(tick): // so that the captures keep up
							_, _ = p.Ask(network, server) // after the flush nobody need answer
						}
					}
				})
			}
		}
	}
	sent := l.sent()
	require.Eventually(t, func() bool { return l.sent() > sent }, waitFor, tick)
	c.command(t, "nft", "flush", "ruleset")
	// Each repeats what was not answered, or asks again.
	sent = l.sent()
	require.Eventually(t, func() bool { return l.sent() > sent+4*len(l.raw) }, waitFor, tick)
	end()
	l.requireNoneByPrimary(t)
}

// stop ends the watch.
func (l *leaks) stop() {
	for _, capture := range append(l.atPods, l.primary, l.second) {
		capture.Stop()
	}
}

// sent counts the packets that the pods have sent to the outside.
func (l *leaks) sent() int {
	l.primary.Packets() // looks often enough for none to be lost
	l.second.Packets()
	count := 0
	for _, capture := range l.atPods {
		count += capture.Count(func(p nettest.Packet) bool { return p.Outgoing && l.raw[p.Src] && canOpen(p) })
	}
	return count
}
