package nettest

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// mostMessages is what one sendmmsg takes (UIO_MAXIOV).
const mostMessages = 1024

// mmsghdr is struct mmsghdr on 64-bit machines.
type mmsghdr struct {
	header unix.Msghdr
	length uint32 // of what was sent or received
	_      uint32
}

// Sender sends frames by one link, from below the queueing discipline. A veth
// hands a frame to the other namespace in the sender's own context: the kernel
// has forwarded it, up to the sink, before it takes the next one.
type Sender struct {
	fd       int
	messages []mmsghdr
	vectors  []unix.Iovec
}

// NewSender makes a sender of these frames, whose content may change between two calls of Send.
func (n *Namespace) NewSender(t T, link string, frames [][]byte) *Sender {
	t.Helper()
	index := n.Index(t, link)
	var s *Sender
	err := n.inside(func() (err error) {
		s, err = newSender(index, frames)
		return err
	})
	if err != nil {
		t.Fatalf("namespace %s: send by %s: %v", n.name, link, err)
	}
	t.Cleanup(func() { unix.Close(s.fd) })
	return s
}

func newSender(index int, frames [][]byte) (*Sender, error) {
	// Protocol 0: the socket receives nothing, so that it costs nothing.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("packet socket: %w", err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("bypass the queueing discipline: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: index}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("bind the packet socket to link %d: %w", index, err)
	}
	s := &Sender{fd: fd, messages: make([]mmsghdr, len(frames)), vectors: make([]unix.Iovec, len(frames))}
	for i, frame := range frames {
		s.vectors[i].Base = &frame[0]
		s.vectors[i].SetLen(len(frame))
		s.messages[i].header.Iov = &s.vectors[i]
		s.messages[i].header.SetIovlen(1)
	}
	return s, nil
}

// Send sends the frames from, from+1, .. to-1.
func (s *Sender) Send(from, to int) error {
	for from < to {
		n, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(s.fd),
			uintptr(unsafe.Pointer(&s.messages[from])), uintptr(min(to-from, mostMessages)), 0, 0, 0)
		switch {
		case errno == 0:
			from += int(n)
		case !errors.Is(errno, unix.EINTR):
			return fmt.Errorf("send: %w", errno)
		}
	}
	return nil
}
