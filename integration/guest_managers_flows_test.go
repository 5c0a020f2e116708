//go:build guest

package integration

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"golang.org/x/sys/unix"
)

// flow is one kind of packets that a pod sends all the while, at a steady pace, whatever comes back. The port to which
// it sends tells it from the others.
type flow struct {
	name      string
	annotated bool
	ipv4      bool
	tcp       bool
	stays     bool // with its connection
	port      uint16

	mu    sync.Mutex
	right []time.Time // when a packet arrived, or TCP was answered, as it should
}

// sentHops is what packets begin with.
const sentHops = 64

// pace is the time between two packets of a flow; a guest emulates its processor.
const pace = 100 * time.Millisecond

// flows are all that pods send, and the router's two links, by which it arrives.
type flows struct {
	all      []*flow
	captures map[string]*nettest.Capture
	seen     map[string]int // how many packets of a capture have been judged
	wrong    map[string]int // packets with a wrong source, described
	packets  int
}

// link is the router's link by which the flow should arrive.
func (f *flow) link() string {
	if f.annotated {
		return nettest.RouterSecondLink
	}
	return nettest.RouterPrimaryLink
}

// source is the one that the flow should have.
func (f *flow) source() string {
	switch {
	case f.annotated && f.ipv4:
		return egress4
	case f.annotated:
		return egress6
	case f.ipv4:
		return nettest.PrimaryIPv4
	}
	return nettest.PrimaryIPv6
}

// isRight: where another program has the plain pod go is none of egress-ip's, and a connection stays with what it began with.
func (f *flow) isRight(link, source string) bool { return link == f.link() && source == f.source() }

// startFlows has the pods send until the test ends: in each address family packets over UDP that open a connection
// each time, others that stay with theirs, and connections over TCP. UDP packets end at the router.
func startFlows(t *testing.T, c *cluster, annotated, plain *pod) *flows {
	t.Helper()
	c.on(t, c.Router, "nft", fmt.Sprintf(`
		add table inet world
		add chain inet world arrive { type filter hook prerouting priority raw; }
		add rule inet world arrive udp dport %d-%d drop`, firstUDPPort, lastPort))
	s := &flows{captures: map[string]*nettest.Capture{}, seen: map[string]int{}, wrong: map[string]int{}}
	for _, link := range []string{nettest.RouterPrimaryLink, nettest.RouterSecondLink} {
		s.captures[link] = c.Router.Capture(t, link)
	}
	f := &traffic{stop: make(chan struct{})}
	for _, p := range []*pod{annotated, plain} {
		for _, ipv4 := range []bool{true, false} {
			s.start(t, f, c, p, p == annotated, ipv4)
		}
	}
	t.Cleanup(f.end)
	return s
}

// start starts the three flows of a pod and an address family.
func (s *flows) start(t *testing.T, f *traffic, c *cluster, p *pod, annotated, ipv4 bool) {
	t.Helper()
	add := func(kind string, first int) *flow {
		family, who := "IPv6", "plain"
		if ipv4 {
			family = "IPv4"
		}
		if annotated {
			who = "annotated"
		}
		one := &flow{
			name: strings.Join([]string{who, family, kind}, " "), annotated: annotated, ipv4: ipv4,
			tcp: first == firstTCPPort, stays: strings.HasPrefix(kind, "staying"), port: uint16(first + len(s.all)),
		}
		s.all = append(s.all, one)
		return one
	}
	fresh, staying, tcp := add("UDP", firstUDPPort), add("staying UDP", firstUDPPort), add("TCP", firstTCPPort)
	f.running.Go(func() { p.Do(t, func() { sendUDP(f, ipv4, fresh.port, staying.port) }) })

	c.Server.ServeWhoAmI(t, tcp.port)
	server := netip.AddrPortFrom(netip.MustParseAddr(nettest.ServerIPv6), tcp.port)
	if ipv4 {
		server = netip.AddrPortFrom(netip.MustParseAddr(nettest.ServerIPv4), tcp.port)
	}
	f.running.Go(func() {
		var asking sync.WaitGroup
		defer asking.Wait()
		for f.goesOn(2 * pace) {
			asking.Go(func() {
				if saw, err := p.Ask("tcp", server.String()); err == nil && saw.String() == tcp.source() {
					tcp.arrived(time.Now())
				}
			})
		}
	})
}

// goesOn waits, and reports whether to go on.
func (f *traffic) goesOn(pause time.Duration) bool {
	select {
	case <-f.stop:
		return false
	case <-time.After(pause):
		return true
	}
}

// sendUDP sends from inside the pod.
func sendUDP(f *traffic, ipv4 bool, fresh, staying uint16) {
	to := func(port uint16) unix.Sockaddr {
		if ipv4 {
			return &unix.SockaddrInet4{Port: int(port), Addr: netip.MustParseAddr(nettest.ServerIPv4).As4()}
		}
		return &unix.SockaddrInet6{Port: int(port), Addr: netip.MustParseAddr(nettest.ServerIPv6).As16()}
	}
	stays, err := udpSocket(ipv4)
	if err != nil {
		return
	}
	defer unix.Close(stays)
	for f.goesOn(pace) {
		_ = unix.Sendto(stays, []byte("?"), 0, to(staying)) // it may be refused
		fd, err := udpSocket(ipv4)
		if err != nil {
			continue
		}
		_ = unix.Sendto(fd, []byte("?"), 0, to(fresh))
		unix.Close(fd)
	}
}

func (f *flow) arrived(at time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.right = append(f.right, at)
}

// look judges what has arrived since the last look.
func (s *flows) look() {
	for link, capture := range s.captures {
		packets := capture.PacketsFrom(s.seen[link])
		s.seen[link] += len(packets)
		for _, p := range packets {
			s.judge(link, p)
		}
	}
}

// judge leaves out answers, what is no flow's, and the node's own resets: where a connection has been forgotten, it sends
// them with the address to which the answer came, and nothing has forwarded them.
func (s *flows) judge(link string, p nettest.Packet) {
	i := slices.IndexFunc(s.all, func(f *flow) bool { return f.port == p.DstPort })
	if i < 0 || p.Outgoing || p.Reset && p.Hops == sentHops {
		return
	}
	f, source := s.all[i], p.Src.String()
	s.packets++
	switch {
	case f.annotated && !f.isRight(link, source), source == egress4 && !f.annotated, source == egress6 && !f.annotated:
		s.wrong[fmt.Sprintf("%s by %s from %s", f.name, link, source)]++
	case !f.tcp && (f.isRight(link, source) || f.stays):
		f.arrived(p.Time)
	}
}

// since is when the flow first arrived rightly after a moment, and the longest time from one such packet to the
// next since another moment, up to now. A flow that has not arrived has the zero time.
func (f *flow) since(gapFrom, from, now time.Time) (first time.Time, gap time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	last := gapFrom
	for _, at := range f.right {
		if at.Before(gapFrom) {
			continue
		}
		gap, last = max(gap, at.Sub(last)), at
		if first.IsZero() && at.After(from) {
			first = at
		}
	}
	return first, max(gap, now.Sub(last))
}

// missing names the flows of which nothing has arrived rightly since the last change, and says of each pod for how long
// one was interrupted at most, and when the last one was back.
func (s *flows) missing(began, last, now time.Time) (missing []string, figures string) {
	for _, annotated := range []bool{true, false} {
		var longest, back time.Duration
		for _, f := range s.all {
			if f.annotated != annotated {
				continue
			}
			first, gap := f.since(began, last, now)
			if longest = max(longest, gap); first.IsZero() {
				missing = append(missing, f.name)
			} else {
				back = max(back, first.Sub(last))
			}
		}
		figures += fmt.Sprintf("%-9s interrupted %6.2f s, back %5.2f s after the last change  ",
			map[bool]string{true: "annotated", false: "plain"}[annotated], longest.Seconds(), back.Seconds())
	}
	return missing, figures
}

// requireNoneWrong: no packet of a pod has arrived with a wrong source so far.
func (s *flows) requireNoneWrong(t *testing.T) {
	t.Helper()
	s.look()
	wrong := s.wrong
	s.wrong = map[string]int{}
	for what, packets := range wrong {
		t.Errorf("%d packets with a wrong source: %s", packets, what)
	}
}
