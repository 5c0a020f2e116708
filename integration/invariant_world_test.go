package integration

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// A sender's UDP packets go to its own port, so that the world knows whose they are, whatever
// their source; its TCP connections go to another one, where the server answers.
const firstUDPPort, firstTCPPort, lastPort = 20000, 20100, 20199

// world counts, at the router, what senders have sent to the outside: every packet, by the link
// by which it has come, its source, and whose it is.
type world struct {
	router *nettest.Namespace
}

// arrival is what the world tells packets apart by.
type arrival struct {
	link   string // the router's
	source netip.Addr
	port   int
}

func (a arrival) String() string { return fmt.Sprintf("by %s from %s", a.link, a.source) }

// newWorld counts from now on. UDP packets end at the router. Resets are left out: where a connection has been
// forgotten, it is the node that sends them, with the address to which the answer came.
func newWorld(t *testing.T, c *cluster) *world {
	t.Helper()
	c.on(t, c.Router, "nft", fmt.Sprintf(`
		add table inet world
		add set inet world seen4 { typeof meta iifname . ip saddr . th dport; size 65535; flags dynamic; counter; }
		add set inet world seen6 { typeof meta iifname . ip6 saddr . th dport; size 65535; flags dynamic; counter; }
		add chain inet world arrive { type filter hook prerouting priority raw; }
		add rule inet world arrive iifname %s return
		add rule inet world arrive tcp flags & rst == rst return
		add rule inet world arrive meta l4proto { tcp, udp } th dport %d-%d ip version 4 update @seen4 { meta iifname . ip saddr . th dport }
		add rule inet world arrive meta l4proto { tcp, udp } th dport %d-%d ip6 version 6 update @seen6 { meta iifname . ip6 saddr . th dport }
		add rule inet world arrive udp dport %d-%d drop`,
		nettest.RouterServersLink, firstUDPPort, lastPort, firstUDPPort, lastPort, firstUDPPort, firstTCPPort-1))
	return &world{c.Router}
}

// seen is what has arrived so far.
func (w *world) seen(t *testing.T, c *cluster) map[arrival]int {
	t.Helper()
	seen := map[arrival]int{}
	for _, set := range []string{"seen4", "seen6"} {
		var listing struct {
			Nftables []struct {
				Set *struct {
					Elem []struct {
						Elem struct {
							Val struct {
								Concat []json.RawMessage `json:"concat"`
							} `json:"val"`
							Counter struct {
								Packets int `json:"packets"`
							} `json:"counter"`
						} `json:"elem"`
					} `json:"elem"`
				} `json:"set"`
			} `json:"nftables"`
		}
		require.NoError(t, json.Unmarshal([]byte(c.on(t, w.router, "nft", "-j", "list", "set", "inet", "world", set)), &listing))
		for _, item := range listing.Nftables {
			if item.Set == nil {
				continue
			}
			for _, e := range item.Set.Elem {
				var a arrival
				var source string
				require.Len(t, e.Elem.Val.Concat, 3)
				for i, into := range []any{&a.link, &source, &a.port} {
					require.NoError(t, json.Unmarshal(e.Elem.Val.Concat[i], into))
				}
				a.source = netip.MustParseAddr(source)
				seen[a] += e.Elem.Counter.Packets
			}
		}
	}
	return seen
}

// sender is a pod that sends all the while.
type sender struct {
	*nettest.Pod
	name       string
	ipv4, ipv6 bool
	number     int
	sent       atomic.Int64
}

// of says whether a packet is this sender's.
func (s *sender) of(a arrival) bool {
	return a.port == firstUDPPort+s.number || a.port == firstTCPPort+s.number
}

// traffic is all senders.
type traffic struct {
	stop    chan struct{}
	running sync.WaitGroup
}

// startSending has the senders send until end: over UDP, half of it from a new port each time, to
// addresses here and there, and the rest from one that stays; and over TCP, one connection after the other.
func startSending(t *testing.T, c *cluster, senders ...*sender) *traffic {
	t.Helper()
	f := &traffic{stop: make(chan struct{})}
	c.Node.Sysctl(t, "net.netfilter.nf_conntrack_udp_timeout", "3") // or the table would be full
	for _, s := range senders {
		c.Server.ServeWhoAmI(t, uint16(firstTCPPort+s.number))
		for _, ipv4 := range []bool{true, false} {
			if ipv4 && !s.ipv4 || !ipv4 && !s.ipv6 {
				continue
			}
			f.running.Go(func() { s.Do(t, func() { f.spray(s, ipv4) }) })
			server := nettest.ServerIPv4
			if !ipv4 {
				server = "[" + nettest.ServerIPv6 + "]"
			}
			f.running.Go(func() {
				for {
					select {
					case <-f.stop:
						return
					case <-time.After(20 * time.Millisecond):
						_, _ = s.Ask("tcp", fmt.Sprintf("%s:%d", server, firstTCPPort+s.number)) // it may be refused
					}
				}
			})
		}
	}
	t.Cleanup(f.end)
	return f
}

func (f *traffic) end() {
	select {
	case <-f.stop:
	default:
		close(f.stop)
	}
	f.running.Wait()
}

// spray sends bursts, from inside the pod.
func (f *traffic) spray(s *sender, ipv4 bool) {
	r := rand.New(rand.NewPCG(rand.Uint64(), 0))
	staying, err := udpSocket(ipv4)
	if err != nil {
		return
	}
	defer unix.Close(staying)
	first := anywhere(r, ipv4, firstUDPPort+s.number)
	for {
		select {
		case <-f.stop:
			return
		case <-time.After(4 * time.Millisecond):
		}
		fd, err := udpSocket(ipv4)
		if err != nil {
			continue
		}
		for range 4 {
			if unix.Sendto(fd, []byte("?"), 0, anywhere(r, ipv4, firstUDPPort+s.number)) == nil {
				s.sent.Add(1)
			}
			if unix.Sendto(staying, []byte("?"), 0, first) == nil {
				s.sent.Add(1)
			}
		}
		unix.Close(fd)
	}
}

func udpSocket(ipv4 bool) (int, error) {
	family := unix.AF_INET6
	if ipv4 {
		family = unix.AF_INET
	}
	return unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
}

// anywhere is one outside: the server, an address behind the router, or the router itself.
func anywhere(r *rand.Rand, ipv4 bool, port int) unix.Sockaddr {
	if ipv4 {
		all := []string{nettest.ServerIPv4, nettest.PrimaryGatewayIPv4, fmt.Sprintf("198.51.100.%d", 1+r.IntN(200))}
		return &unix.SockaddrInet4{Port: port, Addr: netip.MustParseAddr(all[r.IntN(len(all))]).As4()}
	}
	all := []string{nettest.ServerIPv6, nettest.PrimaryGatewayIPv6, fmt.Sprintf("2001:db8:51::%x", 1+r.IntN(200))}
	return &unix.SockaddrInet6{Port: port, Addr: netip.MustParseAddr(all[r.IntN(len(all))]).As16()}
}

// between is what has arrived after the first look and before the second.
func between(before, after map[arrival]int) map[arrival]int {
	fresh := map[arrival]int{}
	for a, n := range after {
		if n > before[a] {
			fresh[a] = n - before[a]
		}
	}
	return fresh
}
