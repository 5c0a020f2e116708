// Package kernel carries the values of package egress to and from rtnetlink,
// nf_tables and conntrack, in the network namespace of the calling thread. One
// file is about one kind of object. Writing what is already so, or deleting what
// does not exist, is no error and no write.
package kernel

import (
	"errors"
	"fmt"
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
	silent  atomic.Bool     // a connection to nf_tables was closed because its time was over, see openNFT
	lib, ct *netlink.Handle // see rt and conntrack.go

	// For requests that the library does not know, see routeRequest and conntrack.go.
	routeSocket, ctSocket *nl.SocketHandle

	known known // of the table inet egress_ip
}

// Open connects to the network namespace of the calling thread, which is the one that is to
// use it.
func Open() *Kernel {
	k := &Kernel{}
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
	for _, library := range []*netlink.Handle{k.lib, k.ct} {
		if library != nil {
			library.Close()
		}
	}
	for _, socket := range []*nl.SocketHandle{k.routeSocket, k.ctSocket} {
		if socket != nil {
			socket.Close()
		}
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

// rt is for the library's requests to rtnetlink. Where its socket cannot be opened, each
// use opens one of its own, and says why it cannot.
func (k *Kernel) rt() *netlink.Handle {
	if k.lib == nil {
		var err error
		if k.lib, err = openHandle(unix.NETLINK_ROUTE); err != nil {
			k.lib = &netlink.Handle{}
		}
	}
	return k.lib
}

// openHandle opens a socket for the library's requests.
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

// routeRequest is one that the library does not know, or whose answer it does not read in full. Its socket
// is opened when first asked for, with strict checks: the kernel then filters dumps.
func (k *Kernel) routeRequest(message, flags int) (*nl.NetlinkRequest, error) {
	if k.routeSocket == nil {
		socket, err := openSocket(unix.NETLINK_ROUTE)
		if err != nil {
			return nil, fmt.Errorf("open an rtnetlink socket: %w", err)
		}
		if err := unix.SetsockoptInt(socket.Socket.GetFd(), unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 1); err != nil {
			socket.Close()
			return nil, fmt.Errorf("ask rtnetlink for strict checks: %w", err)
		}
		k.routeSocket = socket
	}
	req := nl.NewNetlinkRequest(message, flags)
	req.Sockets = map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: k.routeSocket}
	return req, nil
}

// openSocket opens a socket for requests of our own; Close gives it back.
func openSocket(protocol int) (*nl.SocketHandle, error) {
	socket, err := nl.Subscribe(protocol)
	if err != nil {
		return nil, err
	}
	within := unix.NsecToTimeval(answerWithin.Nanoseconds())
	if err := errors.Join(socket.SetSendTimeout(&within), socket.SetReceiveTimeout(&within)); err != nil {
		socket.Close()
		return nil, err
	}
	return &nl.SocketHandle{Socket: socket}, nil
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
