package nettest

import (
	"errors"
	"fmt"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Of a Receiver: how many packets it takes at once, how much of each, and how long it waits for one.
const (
	receiveAtOnce  = 128
	receiveLength  = 192
	receiveTimeout = 50_000 // microseconds
)

// Receiver receives what arrives by any link of a namespace, before the namespace does anything with it.
type Receiver struct {
	fd       int
	messages []mmsghdr
	senders  []unix.RawSockaddrLinklayer
	buffers  [][receiveLength]byte
	controls [][controlLength]byte
}

// controlLength has room for a time (struct timespec behind a struct cmsghdr).
const controlLength = 32

// NewReceiver makes one whose socket has room for so many bytes; a small packet takes almost 1 KiB.
func (n *Namespace) NewReceiver(t T, room int) *Receiver {
	t.Helper()
	r := &Receiver{
		messages: make([]mmsghdr, receiveAtOnce), senders: make([]unix.RawSockaddrLinklayer, receiveAtOnce),
		buffers: make([][receiveLength]byte, receiveAtOnce), controls: make([][controlLength]byte, receiveAtOnce),
	}
	vectors := make([]unix.Iovec, receiveAtOnce)
	for i := range r.messages {
		vectors[i].Base = &r.buffers[i][0]
		vectors[i].SetLen(receiveLength)
		r.messages[i].header.Iov = &vectors[i]
		r.messages[i].header.SetIovlen(1)
		r.messages[i].header.Name = (*byte)(unsafe.Pointer(&r.senders[i]))
		r.messages[i].header.Control = &r.controls[i][0]
	}
	err := n.inside(func() (err error) {
		// No protocol before all is set.
		r.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		return err
	})
	if err != nil {
		t.Fatalf("namespace %s: receive: %v", n.name, err)
	}
	t.Cleanup(func() { unix.Close(r.fd) })
	err = errors.Join(
		unix.SetsockoptInt(r.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, room),
		unix.SetsockoptTimeval(r.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: receiveTimeout}),
		unix.SetsockoptInt(r.fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1),
		unix.SetsockoptInt(r.fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1),
		unix.Bind(r.fd, &unix.SockaddrLinklayer{Protocol: swap(unix.ETH_P_ALL)}),
	)
	if err != nil {
		t.Fatalf("namespace %s: receive: %v", n.name, err)
	}
	return r
}

// Receive calls see for each packet that has arrived, with the time at which it did, the ifindex of the link, and the
// packet from the header of the network protocol on, at most 192 bytes of it, which are only lent. It waits a moment for
// the first.
func (r *Receiver) Receive(see func(at time.Time, link int, packet []byte)) error {
	for i := range r.messages {
		r.messages[i].header.Namelen = unix.SizeofSockaddrLinklayer
		r.messages[i].header.SetControllen(controlLength)
	}
	n, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, uintptr(r.fd), uintptr(unsafe.Pointer(&r.messages[0])),
		receiveAtOnce, unix.MSG_WAITFORONE, 0, 0)
	switch errno {
	case 0:
	case unix.EAGAIN, unix.EINTR, unix.ENETDOWN:
		return nil
	default:
		return fmt.Errorf("receive: %w", errno)
	}
	for i := range int(n) {
		see(r.arrived(i), int(r.senders[i].Ifindex), r.buffers[i][:r.messages[i].length])
	}
	return nil
}

// arrived is when a packet arrived, by the kernel: on a busy machine it may be read a while later.
func (r *Receiver) arrived(i int) time.Time {
	control := r.controls[i][:r.messages[i].header.Controllen]
	header := (*unix.Cmsghdr)(unsafe.Pointer(&r.controls[i][0]))
	if len(control) < unix.CmsgLen(int(unsafe.Sizeof(unix.Timespec{}))) || header.Level != unix.SOL_SOCKET || header.Type != unix.SCM_TIMESTAMPNS {
		return time.Now()
	}
	return time.Unix((*unix.Timespec)(unsafe.Pointer(&r.controls[i][unix.CmsgLen(0)])).Unix())
}

// Lost is how many packets have found no room since Lost was called last.
func (r *Receiver) Lost() (int, error) {
	statistics, err := unix.GetsockoptTpacketStats(r.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err != nil {
		return 0, fmt.Errorf("packets lost: %w", err)
	}
	return int(statistics.Drops), nil
}
