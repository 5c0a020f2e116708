// Package kernel carries the values of package egress to and from rtnetlink,
// nf_tables and conntrack, in the network namespace of the calling thread. One
// file is about one kind of object. Writing what is already so, or deleting what
// does not exist, is no error and no write.
package kernel

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/google/nftables"
	mdlayher "github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Kernel holds the sockets to one network namespace. Those to rtnetlink and conntrack are
// opened on first use: a plain pod's ADD needs none.
type Kernel struct {
	nft     *nftables.Conn
	silent  atomic.Bool              // a connection to nf_tables was closed because its time was over, see openNFT
	handles map[int]*netlink.Handle  // for the library's requests, by protocol
	sockets map[int]*nl.SocketHandle // for requests of our own
	known   known                    // of the table inet egress_ip
}

// Open connects to the network namespace of the calling thread, which is the one that is to
// use it.
func Open() *Kernel {
	k := &Kernel{handles: map[int]*netlink.Handle{}, sockets: map[int]*nl.SocketHandle{}}
	var err error
	if k.nft, err = k.openNFT(nftables.AsLasting()); err != nil {
		// A kernel without nf_tables, or a seccomp profile that refuses it. What needs no
		// nf_tables works; for the rest each use opens a socket of its own, and says why
		// it cannot.
		k.nft = &nftables.Conn{}
	}
	return k
}

// Close gives the sockets back.
func (k *Kernel) Close() {
	_ = k.nft.CloseLasting() // nothing is left to lose
	for _, h := range k.handles {
		h.Close()
	}
	for _, s := range k.sockets {
		s.Close()
	}
}

// No wait for the kernel is without an end: a runtime gives a plugin two minutes, and
// tells nobody then what it has waited for.
const (
	// answerWithin is for one answer of rtnetlink or conntrack.
	answerWithin = 10 * time.Second
	// nftWithin is for all that is asked of nf_tables by one socket.
	nftWithin = 30 * time.Second
)

// rt is for the library's requests to rtnetlink, and ct for those to conntrack.
func (k *Kernel) rt() *netlink.Handle { return k.handle(unix.NETLINK_ROUTE) }
func (k *Kernel) ct() *netlink.Handle { return k.handle(unix.NETLINK_NETFILTER) }

// handle returns a socket for the library's requests. Where it cannot be opened, each
// use opens one of its own, and says why it cannot.
func (k *Kernel) handle(protocol int) *netlink.Handle {
	if k.handles[protocol] == nil {
		h, err := openHandle(protocol)
		if err != nil {
			h = &netlink.Handle{}
		}
		k.handles[protocol] = h
	}
	return k.handles[protocol]
}

func openHandle(protocol int) (*netlink.Handle, error) {
	h, err := netlink.NewHandle(protocol)
	if err != nil {
		return nil, err
	}
	if err := h.SetSocketTimeout(answerWithin); err != nil {
		h.Close()
		return nil, err
	}
	return h, nil
}

// request is one that the library does not know, or whose answer it does not read in full. The kernel checks
// it strictly, so that it filters dumps of routes by what they are asked for.
func (k *Kernel) request(protocol, message, flags int) (*nl.NetlinkRequest, error) {
	if k.sockets[protocol] == nil {
		socket, err := nl.Subscribe(protocol)
		if err != nil {
			return nil, fmt.Errorf("open a netlink socket: %w", err)
		}
		within := unix.NsecToTimeval(answerWithin.Nanoseconds())
		if err := errors.Join(socket.SetSendTimeout(&within), socket.SetReceiveTimeout(&within),
			unix.SetsockoptInt(socket.GetFd(), unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 1)); err != nil {
			socket.Close()
			return nil, fmt.Errorf("prepare a netlink socket: %w", err)
		}
		k.sockets[protocol] = &nl.SocketHandle{Socket: socket}
	}
	req := nl.NewNetlinkRequest(message, flags)
	req.Sockets = k.sockets
	return req, nil
}

func (k *Kernel) routeRequest(message, flags int) (*nl.NetlinkRequest, error) {
	return k.request(unix.NETLINK_ROUTE, message, flags)
}

// openNFT opens a connection to nf_tables. When its time is over it is closed. A deadline
// would not do: the library goes on reading after an error as long as there is something
// to be read, and behind a deadline there always is.
func (k *Kernel) openNFT(options ...nftables.ConnOption) (*nftables.Conn, error) {
	return nftables.New(append(options, nftables.WithSockOptions(func(c *mdlayher.Conn) error {
		time.AfterFunc(nftWithin, func() {
			if _, err := c.SyscallConn(); err == nil { // it is still open
				k.silent.Store(true)
				_ = c.Close() // whoever waits for it gets an error
			}
		})
		return nil
	}))...)
}

// withRoom is for a connection that writes: with an option of ours the library leaves the
// sizes of buffers to us. They are limits, not memory: of what one transaction may say, and
// of the answers to it.
func withRoom() nftables.ConnOption {
	const buffer = 16 << 20
	return nftables.WithSockOptions(func(c *mdlayher.Conn) error {
		return errors.Join(c.SetWriteBuffer(buffer), c.SetReadBuffer(buffer))
	})
}

// nftError says of an error of nf_tables what it means, if a connection has been closed
// because its time was over. The error itself does not tell: Go has no name for that of a
// read whose file is closed, and the library wraps some as text.
func (k *Kernel) nftError(err error) error {
	if err == nil || !k.silent.Load() {
		return err
	}
	return fmt.Errorf("the kernel has not answered within %v: %w", nftWithin, err)
}

// noAnswer says of an error of rtnetlink or conntrack what it means, if a wait has come to its
// end.
func noAnswer(err error) error {
	if errors.Is(err, unix.EAGAIN) {
		return fmt.Errorf("the kernel has not answered within %v: %w", answerWithin, err)
	}
	return err
}

// gone reports whether an error says that the object, or what it hangs on, does
// not exist, so that a delete has nothing left to do.
func gone(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) ||
		errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EADDRNOTAVAIL)
}

// dump repeats a dump that a concurrent change has made inconsistent.
func dump[T any](list func() ([]T, error)) (all []T, err error) {
	const tries = 16
	for range tries {
		if all, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			return all, noAnswer(err)
		}
	}
	return nil, fmt.Errorf("it has changed during each of %d attempts to read it: %w", tries, err)
}

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
