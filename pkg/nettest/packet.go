package nettest

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// Packet is what a Capture keeps of a packet. Ports and types that its protocol does not have are zero.
type Packet struct {
	Time             time.Time  // when it passed, by the clock on the wall
	Outgoing         bool       // sent by the link, not received on it
	EtherType        uint16     // unix.ETH_P_IP, ETH_P_IPV6 or ETH_P_ARP
	Src, Dst         netip.Addr // ARP: the sender's and the target's protocol address
	Protocol         uint8      // unix.IPPROTO_TCP, ..; behind IPv6 extension headers; 0 for ARP
	Hops             uint8      // TTL or hop limit: how many more routers it may pass
	SrcPort, DstPort uint16     // TCP, UDP; zero in later fragments
	Reset            bool       // TCP: it refuses the connection
	ICMPType         uint8      // ICMP and ICMPv6: see Protocol
	Target           netip.Addr // ICMPv6 neighbour solicitation and advertisement
}

func (p Packet) String() string {
	direction := "in"
	if p.Outgoing {
		direction = "out"
	}
	switch {
	case p.EtherType == unix.ETH_P_ARP:
		return fmt.Sprintf("%s ARP %s > %s", direction, p.Src, p.Dst)
	case p.Protocol == unix.IPPROTO_TCP || p.Protocol == unix.IPPROTO_UDP:
		kind := ""
		if p.Reset {
			kind = " reset"
		}
		return fmt.Sprintf("%s %s > %s protocol %d%s", direction,
			netip.AddrPortFrom(p.Src, p.SrcPort), netip.AddrPortFrom(p.Dst, p.DstPort), p.Protocol, kind)
	}
	return fmt.Sprintf("%s %s > %s protocol %d type %d target %s", direction, p.Src, p.Dst, p.Protocol, p.ICMPType, p.Target)
}

// parsePacket reads a packet from its network header on; false if it is no ARP, IPv4 or IPv6 packet.
func parsePacket(etherType uint16, b []byte) (Packet, bool) {
	p := Packet{EtherType: etherType}
	switch etherType {
	case unix.ETH_P_ARP:
		if len(b) < 28 || b[4] != 6 || b[5] != 4 { // Ethernet and IPv4 address lengths
			return Packet{}, false
		}
		p.Src, p.Dst = netip.AddrFrom4([4]byte(b[14:18])), netip.AddrFrom4([4]byte(b[24:28]))
		return p, true
	case unix.ETH_P_IP:
		if len(b) < 20 {
			return Packet{}, false
		}
		p.Src, p.Dst = netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
		p.Hops, p.Protocol = b[8], b[9]
		if fragmentOffset := binary.BigEndian.Uint16(b[6:]) & 0x1fff; fragmentOffset == 0 {
			p.parseTransport(b[min(len(b), int(b[0]&0xf)*4):])
		}
		return p, true
	case unix.ETH_P_IPV6:
		if len(b) < 40 {
			return Packet{}, false
		}
		p.Src, p.Dst = netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
		p.Hops = b[7]
		p.parseExtensions(b[6], b[40:])
		return p, true
	}
	return Packet{}, false
}

// parseExtensions skips IPv6 extension headers: MLD reports have one.
func (p *Packet) parseExtensions(next uint8, b []byte) {
	for {
		p.Protocol = next
		length := 8
		switch next {
		case unix.IPPROTO_HOPOPTS, unix.IPPROTO_ROUTING, unix.IPPROTO_DSTOPTS:
			if len(b) >= 2 {
				length += int(b[1]) * 8
			}
		case unix.IPPROTO_FRAGMENT:
			if len(b) >= 4 && binary.BigEndian.Uint16(b[2:])>>3 != 0 {
				p.Protocol = b[0]
				return
			}
		default:
			p.parseTransport(b)
			return
		}
		if len(b) < length {
			return
		}
		next, b = b[0], b[length:]
	}
}

func (p *Packet) parseTransport(b []byte) {
	switch p.Protocol {
	case unix.IPPROTO_TCP, unix.IPPROTO_UDP:
		if len(b) >= 4 {
			p.SrcPort, p.DstPort = binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
		}
		const flags, rst = 13, 4
		p.Reset = p.Protocol == unix.IPPROTO_TCP && len(b) > flags && b[flags]&rst != 0
	case unix.IPPROTO_ICMP:
		if len(b) >= 1 {
			p.ICMPType = b[0]
		}
	case unix.IPPROTO_ICMPV6:
		if len(b) >= 1 {
			p.ICMPType = b[0]
		}
		const solicitation, advertisement = 135, 136
		if (p.ICMPType == solicitation || p.ICMPType == advertisement) && len(b) >= 24 {
			p.Target = netip.AddrFrom16([16]byte(b[8:24]))
		}
	}
}

// swap turns a 16-bit number between the host's and the network's byte order.
func swap(v uint16) uint16 {
	var b [2]byte
	binary.NativeEndian.PutUint16(b[:], v)
	return binary.BigEndian.Uint16(b[:])
}
