package nettest

import (
	"encoding/binary"
	"errors"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// captureBuffer is the room for packets between two looks, in bytes: some ten thousand small packets.
const captureBuffer = 16 << 20

// Capture records the packets of one link.
//
// The socket's buffer keeps them until someone looks, so there is no goroutine, and a packet that has passed the link
// before a look is always in it. If packets were lost because nobody looked for too long, a look fails the test.
type Capture struct {
	t       T
	mu      sync.Mutex
	fd      int // -1 when stopped
	packets []Packet
	lost    uint32 // packets for which the buffer had no room
}

// Capture records every ARP, IPv4 and IPv6 packet that passes the link from now on, until Stop or Cleanup.
func (n *Namespace) Capture(t T, link string) *Capture {
	t.Helper()
	index := n.Index(t, link)
	c := &Capture{t: t, fd: -1}
	err := n.inside(func() (err error) {
		// No protocol before bind: it would start with the packets of all links.
		c.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		return err
	})
	t.Cleanup(c.Stop)
	if err == nil {
		err = unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, captureBuffer)
	}
	if err == nil {
		err = unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS_NEW, 1)
	}
	if err == nil {
		err = unix.Bind(c.fd, &unix.SockaddrLinklayer{Protocol: swap(unix.ETH_P_ALL), Ifindex: index})
	}
	if err != nil {
		t.Fatalf("capture on %s of %s: %v", link, n.name, err)
	}
	return c
}

// Packets that passed so far, in the order in which they did.
func (c *Capture) Packets() []Packet { return c.PacketsFrom(0) }

// PacketsFrom is Packets without the first so many.
func (c *Capture) PacketsFrom(first int) []Packet {
	c.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drain()
	if c.lost > 0 {
		c.t.Fatalf("capture: %d packets lost; look more often", c.lost)
	}
	return slices.Clone(c.packets[first:])
}

// Count is the number of packets so far that match.
func (c *Capture) Count(match func(Packet) bool) int {
	c.t.Helper()
	count := 0
	for _, p := range c.Packets() {
		if match(p) {
			count++
		}
	}
	return count
}

// Reset forgets the packets so far.
func (c *Capture) Reset() {
	c.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drain()
	c.packets, c.lost = nil, 0
}

// Stop ends the recording; Packets and Count still answer. To stop twice is harmless.
func (c *Capture) Stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fd < 0 {
		return
	}
	defer func() { // even if drain ends the test: the socket would hold the namespace
		unix.Close(c.fd)
		c.fd = -1
	}()
	c.drain()
}

// drain moves what the socket holds to packets. The caller holds mu.
func (c *Capture) drain() {
	c.t.Helper()
	if c.fd < 0 {
		return
	}
	head, control := make([]byte, 256), make([]byte, 64) // headers only; the rest is cut off
	for {
		length, controlLength, _, from, err := unix.Recvmsg(c.fd, head, control, 0)
		switch {
		case errors.Is(err, unix.EAGAIN):
			statistics, err := unix.GetsockoptTpacketStats(c.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
			if err != nil {
				c.t.Fatalf("capture: statistics: %v", err)
			}
			c.lost += statistics.Drops // reading sets them to zero
			return
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.ENETDOWN):
			continue // the link went down: said once, and when it comes up again the socket goes on
		case err != nil:
			c.t.Fatalf("capture: %v", err)
		}
		link := from.(*unix.SockaddrLinklayer)
		if p, ok := parsePacket(swap(link.Protocol), head[:length]); ok {
			p.Outgoing = link.Pkttype == unix.PACKET_OUTGOING
			p.Time = timestamp(control[:controlLength])
			c.packets = append(c.packets, p)
		}
	}
}

// timestamp is when the kernel saw the packet. The message has two 64-bit numbers on every architecture.
func timestamp(control []byte) time.Time {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return time.Time{}
	}
	for _, m := range messages {
		if m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SO_TIMESTAMPNS_NEW && len(m.Data) >= 16 {
			return time.Unix(int64(binary.NativeEndian.Uint64(m.Data)), int64(binary.NativeEndian.Uint64(m.Data[8:])))
		}
	}
	return time.Time{}
}
