package kernel

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// attributes reads what follows the header of an rtnetlink message (struct rtattr,
// linux/rtnetlink.h). A dump has thousands of messages, so nothing is copied:
//
//	a := attributes{left: m[unix.SizeofRtMsg:]}
//	for a.next() {
//		switch a.typ { ... }
//	}
//	return a.err
type attributes struct {
	left []byte
	typ  uint16
	data []byte
	err  error // the first
}

// next goes on to the next attribute, if there is one, and nothing was wrong before.
func (a *attributes) next() bool {
	if a.err != nil || len(a.left) == 0 {
		return false
	}
	if len(a.left) < unix.SizeofRtAttr {
		a.err = fmt.Errorf("%d bytes where an attribute begins", len(a.left))
		return false
	}
	length := int(binary.NativeEndian.Uint16(a.left))
	if length < unix.SizeofRtAttr || length > len(a.left) {
		a.err = fmt.Errorf("an attribute of %d bytes in %d", length, len(a.left))
		return false
	}
	const flags = unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER
	a.typ = binary.NativeEndian.Uint16(a.left[2:]) &^ flags
	a.data = a.left[unix.SizeofRtAttr:length]
	a.left = a.left[min((length+unix.NLA_ALIGNTO-1)&^(unix.NLA_ALIGNTO-1), len(a.left)):]
	return true
}

// bytes returns the attribute's data, which has this many bytes; else it is an error, and
// zeros.
func (a *attributes) bytes(size int) []byte {
	if len(a.data) != size {
		if a.err == nil {
			a.err = fmt.Errorf("attribute %d has %d bytes, not %d", a.typ, len(a.data), size)
		}
		return make([]byte, size)
	}
	return a.data
}

func (a *attributes) uint8() uint8 { return a.bytes(1)[0] }

func (a *attributes) uint32() uint32 { return binary.NativeEndian.Uint32(a.bytes(4)) }

// string is one that ends with its first zero byte.
func (a *attributes) string() string {
	text, _, _ := bytes.Cut(a.data, []byte{0})
	return string(text)
}

// addr is zero where the attribute is no address.
func (a *attributes) addr() netip.Addr {
	addr, _ := netip.AddrFromSlice(a.data)
	return addr
}

// prefix is the network of an address.
func (a *attributes) prefix(bits uint8) netip.Prefix {
	p := netip.PrefixFrom(a.addr(), int(bits))
	if !p.IsValid() && a.err == nil {
		a.err = fmt.Errorf("attribute %d: %d bits of an address of %d bytes", a.typ, bits, len(a.data))
	}
	return p
}
