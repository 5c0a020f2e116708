package main

import (
	"encoding/binary"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Lengths, in bytes.
const (
	ethernetHeader  = 14
	ipv4Header      = 20
	ipv6Header      = 40
	udpHeader       = 8
	smallestPayload = 46 // of an Ethernet frame, so 64 bytes with the check sum
)

// frame is the smallest Ethernet frame with a UDP packet in it.
func frame(srcMAC, dstMAC net.HardwareAddr, src, dst netip.AddrPort) []byte {
	b := append(append([]byte{}, dstMAC...), srcMAC...)
	if src.Addr().Is4() {
		b = binary.BigEndian.AppendUint16(b, unix.ETH_P_IP)
		length := smallestPayload - ipv4Header
		b = append(b, 0x45, 0)
		b = binary.BigEndian.AppendUint16(b, ipv4Header+uint16(length))
		b = append(b, 0, 0, 0x40, 0, 64, unix.IPPROTO_UDP, 0, 0) // DF, TTL 64
		b = append(append(b, src.Addr().AsSlice()...), dst.Addr().AsSlice()...)
		binary.BigEndian.PutUint16(b[ethernetHeader+10:], ^sum(0, b[ethernetHeader:]))
		return appendUDP(b, src, dst, length)
	}
	b = binary.BigEndian.AppendUint16(b, unix.ETH_P_IPV6)
	b = append(b, 0x60, 0, 0, 0, 0, udpHeader, unix.IPPROTO_UDP, 64) // hop limit 64
	b = append(append(b, src.Addr().AsSlice()...), dst.Addr().AsSlice()...)
	return appendUDP(b, src, dst, udpHeader)
}

// appendUDP appends a UDP packet of zeros, length bytes with its header.
func appendUDP(b []byte, src, dst netip.AddrPort, length int) []byte {
	udp := make([]byte, length)
	binary.BigEndian.PutUint16(udp, src.Port())
	binary.BigEndian.PutUint16(udp[2:], dst.Port())
	binary.BigEndian.PutUint16(udp[4:], uint16(length))
	pseudo := sum(sum(unix.IPPROTO_UDP+uint16(length), src.Addr().AsSlice()), dst.Addr().AsSlice())
	checksum := ^sum(pseudo, udp)
	if checksum == 0 {
		checksum = 0xffff // 0 says that there is none
	}
	binary.BigEndian.PutUint16(udp[6:], checksum)
	return append(b, udp...)
}

// sum is the ones' complement sum of 16-bit words that starts with another.
func sum(start uint16, b []byte) uint16 {
	s := uint32(start)
	for i := 0; i < len(b); i += 2 {
		s += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for s > 0xffff {
		s = s&0xffff + s>>16
	}
	return uint16(s)
}
