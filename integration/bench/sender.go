package main

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
	sent   uint32
	_      uint32
}

// sender sends frames by one link, from below the queueing discipline. A veth
// hands a frame to the other namespace in the sender's own context: the kernel
// has forwarded it, up to the sink, before it takes the next one.
type sender struct {
	fd       int
	messages []mmsghdr
	vectors  []unix.Iovec
}

// newSender is to be called in the link's namespace.
func newSender(index int, frames [][]byte) (*sender, error) {
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
	s := &sender{fd: fd, messages: make([]mmsghdr, len(frames)), vectors: make([]unix.Iovec, len(frames))}
	for i, frame := range frames {
		s.vectors[i].Base = &frame[0]
		s.vectors[i].SetLen(len(frame))
		s.messages[i].header.Iov = &s.vectors[i]
		s.messages[i].header.SetIovlen(1)
	}
	return s, nil
}

func (s *sender) close() { unix.Close(s.fd) }

// send sends the frames from, from+1, .. to-1.
func (s *sender) send(from, to int) error {
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
