package nettest

import (
	"encoding/binary"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Lengths, in bytes.
const (
	ethernetHeader = 14
	ipv4Header     = 20
	ipv6Header     = 40
	udpHeader      = 8
)

// SmallestPayload is that of an Ethernet frame, in bytes, which has 64 with its checksum then.
const SmallestPayload = 46

// Frame is an Ethernet frame with an IPv4 or IPv6 packet of UDP, TCP, ICMP or ICMPv6.
type Frame []byte

// NewFrame makes a frame for a packet, from the header of its transport protocol on, and sets the checksums.
func NewFrame(srcMAC, dstMAC net.HardwareAddr, src, dst netip.Addr, protocol uint8, transport []byte) Frame {
	f := append(append(Frame{}, dstMAC...), srcMAC...)
	if src.Is4() {
		f = binary.BigEndian.AppendUint16(f, unix.ETH_P_IP)
		f = append(f, 0x45, 0)
		f = binary.BigEndian.AppendUint16(f, ipv4Header+uint16(len(transport)))
		f = append(f, 0, 0, 0x40, 0, 64, protocol, 0, 0) // DF, TTL 64
		f = append(append(f, src.AsSlice()...), dst.AsSlice()...)
		binary.BigEndian.PutUint16(f[ethernetHeader+10:], ^sum(0, f[ethernetHeader:]))
	} else {
		f = binary.BigEndian.AppendUint16(f, unix.ETH_P_IPV6)
		f = append(f, 0x60, 0, 0, 0)
		f = binary.BigEndian.AppendUint16(f, uint16(len(transport)))
		f = append(f, protocol, 64) // hop limit 64
		f = append(append(f, src.AsSlice()...), dst.AsSlice()...)
	}
	f = append(f, transport...)
	f.Seal()
	return f
}

// NewUDPFrame makes the smallest frame with a UDP packet in it.
func NewUDPFrame(srcMAC, dstMAC net.HardwareAddr, src, dst netip.AddrPort) Frame {
	length := udpHeader
	if src.Addr().Is4() {
		length = SmallestPayload - ipv4Header
	}
	udp := make([]byte, length)
	binary.BigEndian.PutUint16(udp, src.Port())
	binary.BigEndian.PutUint16(udp[2:], dst.Port())
	binary.BigEndian.PutUint16(udp[4:], uint16(length))
	return NewFrame(srcMAC, dstMAC, src.Addr(), dst.Addr(), unix.IPPROTO_UDP, udp)
}

// Transport is the packet from the header of its transport protocol on. Whoever changes it calls Seal.
func (f Frame) Transport() []byte {
	if f.isIPv4() {
		return f[ethernetHeader+ipv4Header:]
	}
	return f[ethernetHeader+ipv6Header:]
}

func (f Frame) isIPv4() bool { return binary.BigEndian.Uint16(f[12:]) == unix.ETH_P_IP }

// Seal sets the transport protocol's checksum.
func (f Frame) Seal() {
	transport := f.Transport()
	addresses, protocol := f[ethernetHeader+8:ethernetHeader+ipv6Header], f[ethernetHeader+6]
	if f.isIPv4() {
		addresses, protocol = f[ethernetHeader+12:ethernetHeader+ipv4Header], f[ethernetHeader+9]
	}
	pseudo := sum(uint16(protocol)+uint16(len(transport)), addresses)
	var field []byte
	switch protocol {
	case unix.IPPROTO_UDP:
		field = transport[6:8]
	case unix.IPPROTO_TCP:
		field = transport[16:18]
	case unix.IPPROTO_ICMP:
		field, pseudo = transport[2:4], 0
	case unix.IPPROTO_ICMPV6:
		field = transport[2:4]
	}
	clear(field)
	checksum := ^sum(pseudo, transport)
	if checksum == 0 && protocol == unix.IPPROTO_UDP {
		checksum = 0xffff // 0 says that there is none
	}
	binary.BigEndian.PutUint16(field, checksum)
}

// sum is the ones' complement sum of 16-bit words that starts with another.
func sum(start uint16, b []byte) uint16 {
	s := uint32(start)
	for ; len(b) > 1; b = b[2:] {
		s += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		s += uint32(b[0]) << 8
	}
	for s > 0xffff {
		s = s&0xffff + s>>16
	}
	return uint16(s)
}
