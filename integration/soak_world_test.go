//go:build soak

package integration

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// Where pods send to: the last 16 bits of the address are the number of the pod, so that each packet says
// whose it is, whatever has become of its source. The router drops what floods; the server answers on connections.
var (
	floodTo      = [2]netip.Addr{netip.MustParseAddr("198.19.0.0"), netip.MustParseAddr("2001:db8:f:1::")}
	connectionTo = [2]netip.Addr{netip.MustParseAddr("198.18.0.0"), netip.MustParseAddr("2001:db8:f:2::")}
)

// numberedIn is the address of a pod in one of those networks.
func numberedIn(network netip.Addr, number uint16) netip.Addr {
	if network.Is4() {
		address := network.As4()
		binary.BigEndian.PutUint16(address[2:], number)
		return netip.AddrFrom4(address)
	}
	address := network.As16()
	binary.BigEndian.PutUint16(address[14:], number)
	return netip.AddrFrom16(address)
}

// numberOf is the number of the pod that has sent a packet there.
func numberOf(to netip.Addr) (number uint16, flood, ok bool) {
	if to.Is4() {
		address := to.As4()
		number = binary.BigEndian.Uint16(address[2:])
	} else {
		address := to.As16()
		number = binary.BigEndian.Uint16(address[14:])
	}
	family := familyOf(to)
	flood = to == numberedIn(floodTo[family], number)
	return number, flood, flood || to == numberedIn(connectionTo[family], number)
}

// ownTTL is that of a packet of the node's own as it arrives; a pod's has been forwarded once.
const ownTTL = 64

// world sees every packet that pods send to the outside, at the router and before that does anything with it.
type soakWorld struct {
	receiver *nettest.Receiver
	names    map[int]string // of the router's links
	second   int            // ifindex of its link to enp7s0
	pods     [1 << 16]atomic.Pointer[flooder]
	early    atomic.Uint64 // packets of pods whose ADD had not returned
	seen     atomic.Uint64 // the others
	wrong    atomic.Uint64
	reigns   reigns
	bare     atomic.Uint64 // packets that left by their link untranslated, while the table had been deleted
	former   atomic.Uint64 // wrong ones, while the former version was in charge
	report   func(w wrongPacket)
	quit     chan struct{}
	done     chan struct{}
	lost     int
	failed   error
}

// wrongPacket is one that should not have arrived as it has.
type wrongPacket struct {
	at     int64 // when it was sent, where it says so, else when it was seen
	pod    *flooder
	link   string
	source netip.Addr
	what   string
}

func (w wrongPacket) String() string {
	want := "is plain"
	if address := w.pod.egress[familyOf(w.source)]; address.IsValid() {
		want = "should be " + address.String()
	}
	return fmt.Sprintf("%s by the router's link %q from %s, which %s: pod %d, %s, %v after its ADD",
		w.what, w.link, w.source, want, w.pod.number, w.pod.addresses, time.Duration(w.at-w.pod.begun.Load()).Round(time.Microsecond))
}

// familyOf is 0 for IPv4 and 1 for IPv6.
func familyOf(a netip.Addr) int {
	if a.Is4() {
		return 0
	}
	return 1
}

// newSoakWorld sees from now on, until the test ends or end is called.
func newSoakWorld(t *testing.T, c *cluster, report func(wrongPacket)) *soakWorld {
	t.Helper()
	c.on(t, c.Router, "sh", "-ec", `
		ip route add blackhole 198.19.0.0/16
		ip -6 route add blackhole 2001:db8:f:1::/64
		ip route add 198.18.0.0/16 via `+nettest.ServerIPv4+`
		ip -6 route add 2001:db8:f:2::/64 via `+nettest.ServerIPv6)
	c.on(t, c.Server, "sh", "-ec", "ip route add local 198.18.0.0/16 dev lo; ip -6 route add local 2001:db8:f:2::/64 dev lo")
	c.serveRepeatedly(t)
	w := &soakWorld{
		receiver: c.Router.NewReceiver(t, 256<<20), report: report, quit: make(chan struct{}), done: make(chan struct{}),
		second: c.Router.Index(t, nettest.RouterSecondLink), names: map[int]string{},
	}
	for _, link := range []string{nettest.RouterPrimaryLink, nettest.RouterSecondLink} {
		w.names[c.Router.Index(t, link)] = link
	}
	go w.watch()
	t.Cleanup(w.end)
	return w
}

func (w *soakWorld) watch() {
	defer close(w.done)
	for w.failed == nil {
		select {
		case <-w.quit:
			w.lost, w.failed = w.receiver.Lost()
			return
		default:
			w.failed = w.receiver.Receive(w.see)
		}
	}
}

// end is to be called once nobody sends any more, and what has been sent has arrived.
func (w *soakWorld) end() {
	select {
	case <-w.quit:
	default:
		close(w.quit)
	}
	<-w.done
}

// requireAll: no packet has escaped.
func (w *soakWorld) requireAll(t *testing.T) {
	t.Helper()
	require.NoError(t, w.failed)
	require.Zero(t, w.lost, "the world did not keep up with the pods: choose a lower -rate")
}

// see judges one packet.
func (w *soakWorld) see(at time.Time, link int, p []byte) {
	var source, to netip.Addr
	var ttl, protocol byte
	var transport []byte
	switch {
	case len(p) >= 20 && p[0]>>4 == 4:
		source, to = netip.AddrFrom4([4]byte(p[12:16])), netip.AddrFrom4([4]byte(p[16:20]))
		ttl, protocol, transport = p[8], p[9], p[min(len(p), int(p[0]&0xf)*4):]
	case len(p) >= 40 && p[0]>>4 == 6:
		source, to = netip.AddrFrom16([16]byte(p[8:24])), netip.AddrFrom16([16]byte(p[24:40]))
		ttl, protocol, transport = p[7], p[6], p[40:]
	default:
		return
	}
	number, flood, ok := numberOf(to)
	if !ok || !flood && ttl == ownTTL {
		return // where a connection has been forgotten, the node itself resets it
	}
	pod := w.pods[number].Load()
	if pod == nil {
		return // it is no pod's: there is none of that number
	}
	arrived := soakArrival{link, source, at.UnixNano() - soakStart.UnixNano()}
	if !flood {
		if !w.judge(pod, &pod.connections[familyOf(to)], arrived) {
			w.tell(wrongPacket{arrived.at, pod, w.names[link], source, "a packet of a TCP connection"})
		}
		return
	}
	head := 8 // of UDP, and of pings
	if protocol == unix.IPPROTO_TCP {
		head = 20
	}
	var load payload
	if !load.read(transport[min(head, len(transport)):]) || load.number != number {
		w.tell(wrongPacket{arrived.at, pod, w.names[link], source, "a damaged packet"})
		return
	}
	if !load.judged {
		w.early.Add(1)
		return
	}
	arrived.at = load.sent
	s := &pod.streams[load.stream]
	if w.judge(pod, &s.tally, arrived) {
		s.arrive(load.sequence, load.sent)
	} else {
		w.tell(wrongPacket{arrived.at, pod, w.names[link], source, fmt.Sprintf("packet %d of %s", load.sequence, streamNames[load.stream])})
	}
}

// soakArrival is how a packet has come.
type soakArrival struct {
	link   int
	source netip.Addr
	at     int64
}

// tally counts packets.
type tally struct{ right, wrong atomic.Uint64 }

// judge says whether a packet of a pod has come as it should: with its egress address by the
// egress link, and a plain one by any other, with any other source.
func (w *soakWorld) judge(pod *flooder, seen *tally, a soakArrival) bool {
	w.seen.Add(1)
	family := familyOf(a.source)
	egress := pod.egress[family]
	right := a.link == w.second && a.source == egress
	if !egress.IsValid() {
		right = a.link != w.second && !slices.Contains(soakEgress[family], a.source)
	}
	if right {
		seen.right.Add(1)
	} else {
		seen.wrong.Add(1)
	}
	return right
}

// tell counts a packet that has not come as it should. While somebody has deleted the table inet egress_ip, a pod's packet
// may leave by the pod's own link, and no other, with the pod's own address, or as the main plugin has translated it, unless
// the watcher holds the pod: that is what egress-ip promises.
func (w *soakWorld) tell(p wrongPacket) {
	reign, found := w.reigns.at(p.at)
	family := familyOf(p.source)
	switch {
	case found && reign.former:
		w.former.Add(1)
	case found && p.link == nettest.RouterSecondLink && p.pod.egress[family].IsValid() && !strings.Contains(reign.held, p.pod.addresses[family]+" . "):
		w.bare.Add(1)
	default:
		w.wrong.Add(1)
		w.report(p)
	}
}
