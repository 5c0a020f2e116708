package main

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"golang.org/x/sys/unix"
)

// dataText writes a constant as nft does for its type.
func dataText(kind string, data []byte) string {
	switch kind {
	case "ipv4_addr", "ipv6_addr":
		if a, ok := netip.AddrFromSlice(data); ok {
			return a.String()
		}
	case "ifname":
		return fmt.Sprintf("%q", strings.TrimRight(string(data), "\x00"))
	case "ether_addr":
		if len(data) >= 6 { // padded to whole registers
			return net.HardwareAddr(data[:6]).String()
		}
	case "fib_addrtype":
		if len(data) == 4 && binary.NativeEndian.Uint32(data) == unix.RTN_LOCAL {
			return "local"
		}
	case "iface_index":
		if len(data) == 4 {
			return fmt.Sprint(binary.NativeEndian.Uint32(data))
		}
	case "mark":
		if len(data) == 4 {
			return fmt.Sprintf("0x%08x", binary.NativeEndian.Uint32(data))
		}
	}
	if names, ok := dataNames[kind]; ok && len(data) == 1 {
		if name, ok := names[data[0]]; ok {
			return name
		}
		return fmt.Sprint(data[0])
	}
	return fmt.Sprintf("%#x", data)
}

var dataNames = map[string]map[byte]string{
	"nf_proto":    {unix.NFPROTO_IPV4: "ipv4", unix.NFPROTO_IPV6: "ipv6"},
	"inet_proto":  {unix.IPPROTO_ICMP: "icmp", unix.IPPROTO_TCP: "tcp", unix.IPPROTO_UDP: "udp", unix.IPPROTO_ICMPV6: "ipv6-icmp"},
	"ct_dir":      {0: "original", 1: "reply"},
	"icmpv6_type": {134: "nd-router-advert", 135: "nd-neighbor-solicit", 136: "nd-neighbor-advert", 137: "nd-redirect"},
}

// prefixOf writes the first bytes of an address as the prefix that they are.
func prefixOf(size int, first []byte) string {
	a, ok := netip.AddrFromSlice(append(append([]byte{}, first...), make([]byte, size-len(first))...))
	if !ok {
		return fmt.Sprintf("%#x", first)
	}
	return netip.PrefixFrom(a, len(first)*8).String()
}

// intervalText writes the addresses from one up to the one before end; without
// an end, up to the very last.
func intervalText(kind string, from, end []byte) string {
	first, ok := netip.AddrFromSlice(from)
	if !ok || kind != "ipv4_addr" && kind != "ipv6_addr" {
		return fmt.Sprintf("%#x-%#x", from, end)
	}
	last := lastOf(netip.PrefixFrom(first, 0))
	if behind, ok := netip.AddrFromSlice(end); ok {
		last = behind.Prev()
	}
	for length := first.BitLen(); length >= 0; length-- {
		p := netip.PrefixFrom(first, length)
		switch {
		case p != p.Masked() || lastOf(p) != last:
		case p.IsSingleIP():
			return first.String()
		default:
			return p.String()
		}
	}
	return first.String() + "-" + last.String()
}

// lastOf returns the last address of a prefix.
func lastOf(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for bit := p.Bits(); bit < len(b)*8; bit++ {
		b[bit/8] |= 0x80 >> (bit % 8)
	}
	last, _ := netip.AddrFromSlice(b)
	return last
}
