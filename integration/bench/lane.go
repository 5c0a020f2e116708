package main

import (
	"fmt"
	"net/netip"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"golang.org/x/sys/unix"
)

// Ports of the packets.
const (
	firstPort  = 2000 // of the pods; each flow has its own, for they share an egress address
	serverPort = 8080
)

// traffic is a kind of packets.
type traffic struct {
	family  family
	pods    []netip.Addr // the sources, in turn
	newFlow bool         // each packet opens a connection, instead of belonging to one that stands
	dropped bool         // the node drops the packet as it comes in: what sending alone costs
}

// arrival is how a packet leaves the node.
type arrival struct {
	link   string // of the node
	source string // empty: the pod's own
}

// lane is the way of one kind of packets through one node.
type lane struct {
	node    *node
	traffic traffic
	expect  arrival
	sender  *nettest.Sender
	frames  int // prepared
	sink    int // index of the wire's link behind

	warm, packets int // of a burst: first those to bring the caches up to date
	next          int // frame, of new flows
}

// newLane prepares packets; of new flows so many that none comes twice
// before the connections are dropped.
func newLane(s *scope, n *node, t traffic, expect arrival) *lane {
	l := &lane{node: n, traffic: t, expect: expect, sink: n.wire.Index(s, n.ends[expect.link])}
	// A few hundred at least, so that a system call is of no account.
	count := (256 + len(t.pods) - 1) / len(t.pods) * len(t.pods)
	flows := len(t.pods)
	if t.newFlow {
		count, flows = newFlows, newFlows
	}
	from, to := n.wire.Link(s, n.ends[podsLink]).Attrs().HardwareAddr, n.Link(s, podsLink).Attrs().HardwareAddr
	if t.dropped {
		to = nobody
	}
	frames := make([][]byte, count)
	for i := range frames {
		frames[i] = nettest.NewUDPFrame(from, to, l.flow(i%flows), l.server())
	}
	l.frames, l.sender = count, n.newSender(s, podsLink, frames)
	return l
}

// flow is the source of flow i.
func (l *lane) flow(i int) netip.AddrPort {
	return netip.AddrPortFrom(l.traffic.pods[i%len(l.traffic.pods)], firstPort+uint16(i))
}

func (l *lane) server() netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr(l.traffic.family.server), serverPort)
}

// newSender sends what the node is to receive on a link.
func (n *node) newSender(s *scope, link string, frames [][]byte) *nettest.Sender {
	return n.wire.NewSender(s, n.ends[link], frames)
}

// establish opens the lane's connections, as a client and a server do, and makes
// sure that every packet leaves the node as expected. It does so for the first
// few of the new flows as well.
func (l *lane) establish(s *scope) {
	if l.traffic.dropped {
		return
	}
	s.must(l.node.forget())
	flows := min(len(l.traffic.pods), l.frames)
	sent := l.node.wire.Capture(s, l.node.ends[l.expect.link])
	defer sent.Stop()
	returned := l.node.wire.Capture(s, l.node.ends[podsLink])
	defer returned.Stop()
	s.must(l.sender.Send(0, flows))
	packets := udp(sent.Packets())
	if len(packets) != flows {
		s.Fatalf("%s: %d packets of %s left by %s instead of %d: %v", l.node.label, len(packets), l.traffic.family.name, l.expect.link, flows, packets)
	}
	link := l.node.Link(s, l.expect.link).Attrs().HardwareAddr
	answers := make([][]byte, flows)
	for i, p := range packets {
		flow := l.flow(i)
		source := netip.AddrPortFrom(flow.Addr(), flow.Port())
		if l.expect.source != "" {
			source = netip.AddrPortFrom(netip.MustParseAddr(l.expect.source), p.SrcPort) // the port may be any
		}
		if p.Src != source.Addr() || p.SrcPort != source.Port() {
			s.Fatalf("%s: a packet from %s left by %s with the source %s:%d instead of %s", l.node.label, flow, l.expect.link, p.Src, p.SrcPort, source)
		}
		answers[i] = nettest.NewUDPFrame(nobody, link, l.server(), source)
	}
	returned.Reset()
	s.must(l.node.newSender(s, l.expect.link, answers).Send(0, flows))
	for i, p := range udp(returned.Packets()) {
		if flow := l.flow(i); p.Dst != flow.Addr() || p.DstPort != flow.Port() {
			s.Fatalf("%s: the answer to %s reached %s:%d", l.node.label, flow, p.Dst, p.DstPort)
		}
	}
	if n := len(udp(returned.Packets())); n != flows {
		s.Fatalf("%s: %d answers of %d reached their pod", l.node.label, n, flows)
	}
	s.must(l.sender.Send(0, flows))
}

func udp(packets []nettest.Packet) []nettest.Packet {
	var found []nettest.Packet
	for _, p := range packets {
		if p.Protocol == unix.IPPROTO_UDP {
			found = append(found, p)
		}
	}
	return found
}

// forget drops the node's connections.
func (n *node) forget() error {
	const table = 1 // CONNTRACK
	if err := n.conntrack.ConntrackTableFlush(table); err != nil {
		return fmt.Errorf("%s: drop the connections: %w", n.label, err)
	}
	return nil
}

// arrived returns how many packets the sink has got so far.
func (l *lane) arrived() (uint64, error) {
	link, err := l.node.wire.Netlink().LinkByIndex(l.sink)
	if err != nil {
		return 0, fmt.Errorf("%s: count what arrives: %w", l.node.label, err)
	}
	return link.Attrs().Statistics.RxPackets, nil
}
