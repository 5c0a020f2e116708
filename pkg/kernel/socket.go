package kernel

import (
	"errors"
	"fmt"
	"time"

	"github.com/google/nftables"
	mdlayher "github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// No wait for the kernel is without an end: a runtime gives a plugin two minutes, and
// tells nobody then what it has waited for.
const (
	// answerWithin is for one answer of rtnetlink or conntrack.
	answerWithin = 10 * time.Second
	// nftWithin is for all that is asked of nf_tables by one socket.
	nftWithin = 30 * time.Second
)

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

// openNFT opens a connection to nf_tables. When its time is over it is closed. A deadline
// would not do: the library goes on reading after an error as long as there is something
// to be read, and behind a deadline there always is.
func (k *Kernel) openNFT(options ...nftables.ConnOption) (*nftables.Conn, error) {
	return nftables.New(append(options, nftables.WithSockOptions(func(c *mdlayher.Conn) error {
		time.AfterFunc(nftWithin, func() { k.end(c) })
		return nil
	}))...)
}

// end closes a connection to nf_tables that is still open.
func (k *Kernel) end(c *mdlayher.Conn) {
	if _, err := c.SyscallConn(); err == nil {
		k.silent.Store(true)
		_ = c.Close() // whoever waits for it gets an error
	}
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

// withRoom is for a connection that writes: with an option of ours the library leaves the
// sizes of buffers to us. They are limits, not memory: of what one transaction may say, and
// of the answers to it.
func withRoom() nftables.ConnOption {
	const buffer = 16 << 20
	return nftables.WithSockOptions(func(c *mdlayher.Conn) error {
		return errors.Join(c.SetWriteBuffer(buffer), c.SetReadBuffer(buffer))
	})
}

// noAnswer says of an error of rtnetlink or conntrack what it means, if a wait has come to its
// end.
func noAnswer(err error) error {
	if errors.Is(err, unix.EAGAIN) {
		return fmt.Errorf("the kernel has not answered within %v: %w", answerWithin, err)
	}
	return err
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
