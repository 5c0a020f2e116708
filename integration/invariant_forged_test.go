package integration

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestInvariant6AddressBelongsToItsPods attacks: an egress address belongs to its pods alone. A plain pod, and one with other
// egress addresses, both with CAP_NET_RAW as every pod, forge the address of a pod that has egress: in
// single packets, in those of a connection that it has, and with the egress address itself as their source; on a
// bridge also with its MAC address, and by neighbour poisoning with whole connections. None of it leaves by the egress
// link or with an egress address, whatever the reverse path filter does; and the pod itself loses nothing.
func TestInvariant6AddressBelongsToItsPods(t *testing.T) {
	t.Parallel()
	for name, plugin := range map[string]func(t *testing.T) object{
		"ptp": ptp,
		"bridge": func(t *testing.T) object {
			b := bridge(t, "nftables")
			b["macspoofchk"] = true
			return b
		},
	} {
		for _, filter := range []string{"0", "1", "2"} {
			t.Run(name+", rp_filter "+filter, func(t *testing.T) {
				t.Parallel()
				c := newCluster(t, nettest.LabOptions{SecondDefault: true}, "1.0.0", plugin(t), egressIP(nil))
				c.Node.Sysctl(t, "net.ipv4.conf.all.rp_filter", filter)
				c.Node.Sysctl(t, "net.ipv4.conf.default.rp_filter", filter)
				c.Node.Sysctl(t, "net.ipv4.conf.eth0.rp_filter", filter)
				c.Node.Sysctl(t, "net.ipv4.conf.enp7s0.rp_filter", filter)
				f := forgery{
					cluster: c, world: newWorld(t, c),
					victim: c.add(t, both), plain: c.add(t, nil), other: c.add(t, others),
				}
				f.forge(t, name == "bridge")
			})
		}
	}
}

type forgery struct {
	*cluster
	world                *world
	victim, plain, other *pod
}

// Ports of what the victim and what forgers send.
const victimsPort, forgersPort, poisonedPort = firstUDPPort, firstUDPPort + 50, firstTCPPort + 50

func (f *forgery) forge(t *testing.T, bridged bool) {
	t.Helper()
	victim4, victim6 := f.victim.global(t)
	// A connection of the victim's.
	established := map[netip.Addr]int{}
	for address, server := range map[netip.Addr]string{victim4: nettest.ServerIPv4, victim6: nettest.ServerIPv6} {
		established[address] = 40000
		f.victim.send(t, address, 40000, netip.MustParseAddr(server), victimsPort)
	}
	forgers := []*pod{f.plain, f.other}
	f.Server.ServeWhoAmI(t, poisonedPort)
	for _, forger := range forgers {
		for range 300 {
			for _, source := range []netip.Addr{victim4, victim6} {
				forger.send(t, source, 1024+rand.IntN(60000), outside(source), forgersPort)
			}
		}
		for _, source := range []netip.Addr{victim4, victim6} {
			for _, server := range []string{nettest.ServerIPv4, nettest.ServerIPv6} {
				if to := netip.MustParseAddr(server); to.Is4() == source.Is4() {
					for range 50 {
						forger.send(t, source, established[source], to, victimsPort)
					}
				}
			}
		}
	}
	f.requireNoneForged(t, 1)
	f.forgeErrors(t, forgers, established)
	if bridged {
		for _, forger := range forgers {
			f.poison(t, forger, victim4, victim6)
			f.requireNoneForged(t, 1)
		}
		for _, forger := range forgers {
			f.forgeLinkAddress(t, forger, victim4, victim6)
			f.requireNoneForged(t, 1)
		}
	}
	for _, forger := range forgers {
		for range 100 {
			for _, source := range []string{egress4, egress6} {
				from := netip.MustParseAddr(source)
				forger.send(t, from, 1024+rand.IntN(60000), outside(from), forgersPort)
			}
		}
	}
	f.requireNoneForged(t, 1)
	f.victim.requireSeen(t, egress4, egress6)
	f.other.requireSeen(t, other4, other6)
	f.plain.requireSeen(t, nettest.PrimaryIPv4, nettest.PrimaryIPv6)
}

// requireNoneForged: of the victim's flow has arrived what the victim has sent, and of the forgers' nothing
// by the egress link, or with an egress address.
func (f *forgery) requireNoneForged(t *testing.T, victims int) {
	t.Helper()
	seen := f.world.seen(t, f.cluster)
	for a, n := range seen {
		switch a.port {
		case victimsPort:
			require.Equal(t, nettest.RouterSecondLink, a.link, "%d %s", n, a)
			require.Equal(t, victims, n, "%d %s", n, a)
		default:
			require.NotEqual(t, nettest.RouterSecondLink, a.link, "%d forged packets %s", n, a)
			require.NotContains(t, egressAddresses, a.source.String(), "%d forged packets %s", n, a)
		}
	}
}

// forgeErrors has the forgers answer the server as if what it sends to the victim had come to them, with an ICMP
// error: conntrack takes it for a part of the victim's connection.
func (f *forgery) forgeErrors(t *testing.T, forgers []*pod, established map[netip.Addr]int) {
	t.Helper()
	links := []*nettest.Capture{f.Router.Capture(t, nettest.RouterPrimaryLink), f.Router.Capture(t, nettest.RouterSecondLink)}
	for _, forger := range forgers {
		own4, own6 := forger.global(t)
		for victim, port := range established {
			own, server := own4, netip.MustParseAddr(nettest.ServerIPv4)
			if victim.Is6() {
				own, server = own6, netip.MustParseAddr(nettest.ServerIPv6)
			}
			forger.sendRaw(t, portUnreachable(own, server, udpPacket(server, victimsPort, victim, port)), server)
			forger.sendRaw(t, portUnreachable(victim, server, udpPacket(server, victimsPort, victim, port)), server)
		}
	}
	time.Sleep(20 * time.Millisecond)
	for _, link := range links {
		for _, p := range link.Packets() {
			isError := p.Protocol == unix.IPPROTO_ICMP && p.ICMPType == 3 || p.Protocol == unix.IPPROTO_ICMPV6 && p.ICMPType == 1
			if !p.Outgoing && isError {
				require.NotContains(t, []string{egress4, egress6}, p.Src.String(), "a forged error has left: %s", p)
			}
		}
		link.Stop()
	}
}

// poison gives the forger the victim's addresses, says so on the bridge, and opens connections from them.
func (f *forgery) poison(t *testing.T, forger *pod, victim4, victim6 netip.Addr) {
	t.Helper()
	for _, address := range []netip.Addr{victim4, victim6} {
		f.on(t, forger.Namespace, "ip", "address", "add", netip.PrefixFrom(address, address.BitLen()).String(), "dev", "eth0", "nodad")
		f.announce(t, forger, address)
		server := fmt.Sprintf("%s:%d", nettest.ServerIPv4, poisonedPort)
		if address.Is6() {
			server = fmt.Sprintf("[%s]:%d", nettest.ServerIPv6, poisonedPort)
		}
		for _, network := range []string{"tcp", "udp"} {
			f.announce(t, forger, address)
			saw, err := forger.AskFrom(network, address, server)
			require.Error(t, err, "%s: the server has answered to %s", network, saw)
		}
		f.on(t, forger.Namespace, "ip", "address", "del", netip.PrefixFrom(address, address.BitLen()).String(), "dev", "eth0")
		f.announce(t, f.victim, address)
	}
}

// announce says on the pod's link that it has an address: the node's neighbour entry follows.
func (f *forgery) announce(t *testing.T, p *pod, address netip.Addr) {
	t.Helper()
	if address.Is4() {
		p.Do(t, func() { sendARP(t, p, address) })
		return
	}
	// The node takes a packet's link address for no news; an advertisement that overrides is some.
	p.Do(t, func() { sendAdvertisement(t, p, address) })
}

// forgeLinkAddress gives the forger the victim's MAC address.
func (f *forgery) forgeLinkAddress(t *testing.T, forger *pod, victim4, victim6 netip.Addr) {
	t.Helper()
	own := forger.Link(t, "eth0").Attrs().HardwareAddr
	// A veth takes another address while it is up.
	change := func(to net.HardwareAddr) {
		t.Helper()
		f.on(t, forger.Namespace, "ip", "link", "set", "eth0", "address", to.String())
	}
	change(f.victim.Link(t, "eth0").Attrs().HardwareAddr)
	for range 100 {
		for _, source := range []netip.Addr{victim4, victim6} {
			forger.send(t, source, 1024+rand.IntN(60000), outside(source), forgersPort)
		}
	}
	time.Sleep(20 * time.Millisecond)
	f.requireNoneForged(t, 1)
	change(own)
}

// global are the pod's addresses.
func (p *pod) global(t *testing.T) (ipv4, ipv6 netip.Addr) {
	t.Helper()
	for _, a := range p.Addresses(t, "eth0") {
		switch {
		case a.Addr().Is4():
			ipv4 = a.Addr()
		case !a.Addr().IsLinkLocalUnicast():
			ipv6 = a.Addr()
		}
	}
	return ipv4, ipv6
}

// outside is a destination of the same family.
func outside(source netip.Addr) netip.Addr {
	if source.Is4() {
		return netip.MustParseAddr(anyOf(nettest.ServerIPv4, "198.51.100.7", nettest.SecondGatewayIPv4, nettest.PrimaryGatewayIPv4))
	}
	return netip.MustParseAddr(anyOf(nettest.ServerIPv6, "2001:db8:51::7", nettest.SecondGatewayIPv6, nettest.PrimaryGatewayIPv6))
}

func anyOf(all ...string) string { return all[rand.IntN(len(all))] }

// send sends a UDP packet with any source, as CAP_NET_RAW allows.
func (p *pod) send(t *testing.T, from netip.Addr, fromPort int, to netip.Addr, port int) {
	t.Helper()
	p.sendRaw(t, udpPacket(from, fromPort, to, port), to)
}

// sendRaw sends a packet from its network header on.
func (p *pod) sendRaw(t *testing.T, packet []byte, to netip.Addr) {
	t.Helper()
	family, address := unix.AF_INET6, unix.Sockaddr(nil)
	if to.Is4() {
		family, address = unix.AF_INET, &unix.SockaddrInet4{Addr: to.As4()}
	} else {
		address = &unix.SockaddrInet6{Addr: to.As16()}
	}
	var err error
	p.Do(t, func() {
		var fd int
		if fd, err = unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW); err != nil {
			return
		}
		defer unix.Close(fd)
		err = unix.Sendto(fd, packet, 0, address)
	})
	require.NoError(t, err)
}

func udpPacket(from netip.Addr, fromPort int, to netip.Addr, port int) []byte {
	udp := binary.BigEndian.AppendUint16(nil, uint16(fromPort))
	udp = binary.BigEndian.AppendUint16(udp, uint16(port))
	udp = append(udp, 0, 9, 0, 0, '?')
	return ipPacket(from, to, unix.IPPROTO_UDP, 6, udp)
}

// portUnreachable is what a host says that has no use for a packet.
func portUnreachable(from, to netip.Addr, about []byte) []byte {
	if to.Is4() {
		message := append([]byte{3, 3, 0, 0, 0, 0, 0, 0}, about...)
		binary.BigEndian.PutUint16(message[2:], internetChecksum(message))
		return ipPacket(from, to, unix.IPPROTO_ICMP, -1, message)
	}
	return ipPacket(from, to, unix.IPPROTO_ICMPV6, 2, append([]byte{1, 4, 0, 0, 0, 0, 0, 0}, about...))
}

// ipPacket puts a header before what it carries, and a checksum of both there; the kernel writes that of the
// header itself.
func ipPacket(from, to netip.Addr, protocol byte, checksumAt int, carried []byte) []byte {
	if checksumAt >= 0 {
		pseudo := append(append([]byte{}, from.AsSlice()...), to.AsSlice()...)
		pseudo = binary.BigEndian.AppendUint32(pseudo, uint32(len(carried)))
		pseudo = binary.BigEndian.AppendUint32(pseudo, uint32(protocol))
		binary.BigEndian.PutUint16(carried[checksumAt:], internetChecksum(append(pseudo, carried...)))
	}
	header := []byte{0x45, 0, 0, byte(20 + len(carried)), 0, 0, 0, 0, 64, protocol, 0, 0}
	if from.Is6() {
		header = []byte{0x60, 0, 0, 0, 0, byte(len(carried)), protocol, 64}
	}
	packet := append(append(header, from.AsSlice()...), to.AsSlice()...)
	if from.Is4() {
		binary.BigEndian.PutUint16(packet[10:], internetChecksum(packet))
	}
	return append(packet, carried...)
}

func internetChecksum(data []byte) uint16 {
	if len(data)%2 == 1 {
		data = append(data, 0)
	}
	var sum uint32
	for i := 0; i < len(data); i += 2 {
		sum += uint32(data[i])<<8 | uint32(data[i+1])
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	if sum == 0xffff {
		return 0xffff
	}
	return ^uint16(sum)
}

// sendARP sends a gratuitous ARP request.
func sendARP(t *testing.T, p *pod, address netip.Addr) {
	t.Helper()
	link := p.Link(t, "eth0").Attrs()
	arp := []byte{0, 1, 8, 0, 6, 4, 0, 1}
	arp = append(append(arp, link.HardwareAddr...), address.AsSlice()...)
	arp = append(append(arp, make([]byte, 6)...), address.AsSlice()...)
	sendFrame(t, link.Index, unix.ETH_P_ARP, net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, arp)
}

// sendAdvertisement sends an unsolicited neighbour advertisement that overrides.
func sendAdvertisement(t *testing.T, p *pod, address netip.Addr) {
	t.Helper()
	link := p.Link(t, "eth0").Attrs()
	all := netip.MustParseAddr("ff02::1")
	message := append([]byte{136, 0, 0, 0, 0x20, 0, 0, 0}, address.AsSlice()...)
	message = append(append(message, 2, 1), link.HardwareAddr...)
	pseudo := append(append([]byte{}, address.AsSlice()...), all.AsSlice()...)
	pseudo = binary.BigEndian.AppendUint32(pseudo, uint32(len(message)))
	pseudo = binary.BigEndian.AppendUint32(pseudo, unix.IPPROTO_ICMPV6)
	binary.BigEndian.PutUint16(message[2:], internetChecksum(append(pseudo, message...)))
	packet := []byte{0x60, 0, 0, 0, 0, byte(len(message)), unix.IPPROTO_ICMPV6, 255}
	packet = append(append(append(packet, address.AsSlice()...), all.AsSlice()...), message...)
	sendFrame(t, link.Index, unix.ETH_P_IPV6, net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}, packet)
}

// sendFrame sends by a link of the calling thread's namespace.
func sendFrame(t *testing.T, index, protocol int, to net.HardwareAddr, payload []byte) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	defer unix.Close(fd)
	address := &unix.SockaddrLinklayer{Protocol: uint16(protocol)>>8 | uint16(protocol)<<8, Ifindex: index, Halen: 6}
	copy(address.Addr[:], to)
	require.NoError(t, unix.Sendto(fd, payload, 0, address))
}
