package integration

import (
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// stricken is a node to which a disaster happens. Its main plugin masquerades, so
// that a connection with a wrong source is answered.
type stricken struct {
	*cluster
	// The first four leave by enp7s0, two of them with the same addresses, then one
	// of each family alone; the last leaves by enp8s0.
	tenants []*tenant
	plain   *direct
}

// tenant is an annotated pod, with what the server sees of it; empty for a family
// that it does not have.
type tenant struct {
	*direct
	ipv4, ipv6 string
}

const third4, third6 = "192.168.125.99", "fd00:125::99"

// newStricken makes the node with more keys of configuration, and its pods, once
// it has been prepared.
func newStricken(t *testing.T, more object, prepare func(*testing.T, *cluster)) *stricken {
	t.Helper()
	s := &stricken{cluster: newCluster(t, nettest.LabOptions{SecondDefault: true, ThirdLink: true}, "1.0.0")}
	s.masquerade(t)
	s.serveRepeatedly(t)
	if prepare != nil {
		prepare(t, s.cluster)
	}
	s.tenants = []*tenant{
		s.newTenant(t, more, "first", "10.244.1.5", "fd00:10:244::5", egress4, egress6),
		s.newTenant(t, more, "sharing", "10.244.1.6", "fd00:10:244::6", egress4, egress6),
		s.newTenant(t, more, "four", "10.244.1.7", "", other4, ""),
		s.newTenant(t, more, "six", "", "fd00:10:244::8", "", other6),
		s.newTenant(t, more, "far", "10.244.1.9", "fd00:10:244::9", third4, third6),
	}
	s.plain = s.newDirect(t, "plain", "10.244.1.10", "fd00:10:244::a", s.tenants[0].entry)
	s.plain.add(t, nil)
	for _, d := range s.tenants {
		d.attach(t)
	}
	return s
}

// newTenant makes a pod whose configuration allows both links. A nil value among
// more takes a key away.
func (c *cluster) newTenant(t *testing.T, more object, id, pod4, pod6, ipv4, ipv6 string) *tenant {
	t.Helper()
	entry := egressIP(object{"links": twoLinks("", "")})
	for key, value := range more {
		entry[key] = value
		if value == nil {
			delete(entry, key)
		}
	}
	d := c.newDirect(t, id, pod4, pod6, entry)
	d.addresses = notEmpty(pod4, pod6)
	return &tenant{d, ipv4, ipv6}
}

// twoLinks is the configuration of both links, with enp7s0's gateways, if any.
func twoLinks(gateway4, gateway6 string) []object {
	return []object{
		{"name": nettest.SecondLink, "gateways": notEmpty(gateway4, gateway6), "duplicateCheck": false, "allow": []object{{
			"namespaces": []string{"payments"}, "addresses": []string{"192.168.124.96/28", "fd00:124::90/124"},
		}}},
		{"name": nettest.ThirdLink, "duplicateCheck": false, "allow": []object{{
			"namespaces": []string{"payments"}, "addresses": []string{"192.168.125.96/28", "fd00:125::90/124"},
		}}},
	}
}

func notEmpty(texts ...string) []string {
	var all []string
	for _, s := range texts {
		if s != "" {
			all = append(all, s)
		}
	}
	return all
}

// attach is the tenant's ADD.
func (d *tenant) attach(t *testing.T) {
	t.Helper()
	want := d.ipv4 + "," + d.ipv6
	if d.ipv4 == "" || d.ipv6 == "" {
		want = d.ipv4 + d.ipv6
	}
	d.add(t, address(want))
}

// far is the pod on the other link.
func (s *stricken) far() *tenant { return s.tenants[len(s.tenants)-1] }

// way is how a tenant reaches the server in one family.
type way struct {
	server, repeated string // who-am-I servers, see serveRepeatedly
	egress           string
}

func (d *tenant) ways() []way {
	var ways []way
	if d.ipv4 != "" {
		ways = append(ways, way{nettest.ServerAskIPv4, nettest.ServerIPv4 + ":8081", d.ipv4})
	}
	if d.ipv6 != "" {
		ways = append(ways, way{nettest.ServerAskIPv6, "[" + nettest.ServerIPv6 + "]:8081", d.ipv6})
	}
	return ways
}

// requireEgress: all tenants are seen as they want to be.
func (s *stricken) requireEgress(t *testing.T) {
	t.Helper()
	for _, d := range s.tenants {
		for _, w := range d.ways() {
			require.Equal(t, w.egress, d.sees(t, w.server), d.id)
		}
	}
}

// lasting is a connection that stays.
type lasting struct {
	net.Conn
	want, name string
}

// establish opens a connection of each tenant over TCP and over UDP.
func (s *stricken) establish(t *testing.T) []lasting {
	t.Helper()
	var all []lasting
	for _, d := range s.tenants {
		for _, w := range d.ways() {
			for network, address := range map[string]string{"tcp": w.repeated, "udp": w.server} {
				var conn net.Conn
				var err error
				d.Do(t, func() { conn, err = net.DialTimeout(network, address, nettest.Within(time.Second)) })
				require.NoError(t, err)
				t.Cleanup(func() { conn.Close() })
				l := lasting{conn, w.egress, d.id + " " + network + " " + address}
				l.requireGoesOn(t)
				all = append(all, l)
			}
		}
	}
	return all
}

// requireGoesOn: the server answers, to the address to which it has answered before.
func (l lasting) requireGoesOn(t *testing.T) {
	t.Helper()
	require.NoError(t, l.SetDeadline(time.Now().Add(nettest.Within(15*time.Second))))
	_, err := l.Write([]byte("?"))
	require.NoError(t, err, l.name)
	answer := make([]byte, 64)
	n, err := l.Read(answer)
	require.NoError(t, err, l.name)
	require.Equal(t, l.want, string(answer[:n]), l.name)
}

// open has each tenant send a packet that opens a connection from the port, over
// UDP and TCP, and waits for no answer. TCP goes on trying until the test ends; the function
// that is returned sends by what has been opened so far.
func (s *stricken) open(t *testing.T, port int) (send func()) {
	t.Helper()
	var all []int
	for _, d := range s.tenants {
		for _, w := range d.ways() {
			udp := openFrom(t, d.Namespace, unix.SOCK_DGRAM, port, w.server)
			_, _ = unix.Write(udp, []byte("?")) // it may be refused
			unix.Close(udp)
			tcp := openFrom(t, d.Namespace, unix.SOCK_STREAM, port, w.repeated)
			t.Cleanup(func() { unix.Close(tcp) })
			all = append(all, tcp)
		}
	}
	return func() {
		for _, fd := range all {
			_ = unix.SetNonblock(fd, true)
			_, _ = unix.Write(fd, []byte("?")) // it may never have been answered
		}
	}
}

// openFrom returns a socket that has begun to connect.
func openFrom(t *testing.T, n *nettest.Namespace, socketType, port int, server string) int {
	t.Helper()
	to := netip.MustParseAddrPort(server)
	var fd int
	var err error
	n.Do(t, func() {
		family, from, remote := unix.AF_INET, unix.Sockaddr(&unix.SockaddrInet4{Port: port}), unix.Sockaddr(nil)
		if to.Addr().Is4() {
			remote = &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}
		} else {
			family, from = unix.AF_INET6, &unix.SockaddrInet6{Port: port}
			remote = &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}
		}
		if fd, err = unix.Socket(family, socketType|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0); err != nil {
			return
		}
		if family == unix.AF_INET6 { // or it would take the port for IPv4 too
			err = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1)
		}
		if err == nil {
			err = unix.Bind(fd, from)
		}
		if err == nil {
			_ = unix.Connect(fd, remote) // in progress, or refused
		}
	})
	require.NoError(t, err)
	return fd
}

// keepOpening opens connections over UDP one by one, to a port where nobody answers,
// and slowly enough for others' packets not to be lost, until what it returns is called.
func (d *tenant) keepOpening(t *testing.T) (stop func()) {
	t.Helper()
	a := &asking{stop: make(chan struct{})}
	for _, server := range []string{nettest.ServerIPv4 + ":9", "[" + nettest.ServerIPv6 + "]:9"} {
		a.every(200*time.Microsecond, "", func() (string, error) {
			d.Do(t, func() {
				if conn, err := net.Dial("udp", server); err == nil {
					_, _ = conn.Write([]byte("?"))
					conn.Close()
				}
			})
			return "", nil
		})
	}
	return sync.OnceFunc(func() { close(a.stop); a.running.Wait() })
}
