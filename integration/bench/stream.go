package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// stream is a TCP connection from a pod to the server, both ends in one hand. Like
// a packet of a lane, what is written at one end has got to the other before write
// returns, on this core; so no scheduler's choice is in what is measured.
type stream struct{ client, server int } // file descriptors, not blocking

// streamChunk is how many bytes are written or read at a time.
const streamChunk = 64 << 10

// newStream connects, and makes sure that the server sees the stream come from
// where it should.
func (n *streamNode) newStream(s *scope, f family, pod, seen netip.Addr) stream {
	listener := n.listeners[f.name]
	dialer := net.Dialer{Timeout: time.Second, LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(pod, 0))}
	var conn net.Conn
	var err error
	n.client.Do(s, func() { conn, err = dialer.Dial("tcp", listener.Addr().String()) })
	if err != nil {
		s.Fatalf("%s: a stream of %s: %w", n.label, pod, err)
	}
	s.Cleanup(func() { conn.Close() })
	accepted, err := listener.Accept()
	s.must(err)
	s.Cleanup(func() { accepted.Close() })
	if source := accepted.RemoteAddr().(*net.TCPAddr).AddrPort().Addr(); source != seen {
		s.Fatalf("%s: a stream of %s has the source %s instead of %s", n.label, pod, source, seen)
	}
	return stream{descriptor(s, conn), descriptor(s, accepted)}
}

// descriptor is a connection's, good until it is closed.
func descriptor(s *scope, conn net.Conn) int {
	raw, err := conn.(syscall.Conn).SyscallConn()
	s.must(err)
	var descriptor int
	s.must(raw.Control(func(fd uintptr) { descriptor = int(fd) }))
	return descriptor
}

// throughput is how many bits a second get through streams, in turn.
func throughput(streams []stream, length time.Duration) (float64, error) {
	buffer := make([]byte, streamChunk)
	bytes := 0
	start := time.Now()
	for time.Since(start) < length {
		for _, s := range streams {
			if _, err := unix.Write(s.client, buffer); err != nil && !errors.Is(err, unix.EAGAIN) {
				return 0, fmt.Errorf("write to a stream: %w", err)
			}
			for {
				n, err := unix.Read(s.server, buffer)
				if errors.Is(err, unix.EAGAIN) {
					break
				}
				if err != nil || n == 0 {
					return 0, fmt.Errorf("read from a stream, %d bytes: %w", n, err)
				}
				bytes += n
			}
		}
	}
	return float64(bytes) * 8 / time.Since(start).Seconds(), nil
}

// latencies are the times from a byte to its answer, in microseconds.
func latencies(s stream, length time.Duration) ([]float64, error) {
	var all []float64
	for begin := time.Now(); time.Since(begin) < length; {
		start := time.Now()
		for _, way := range [][2]int{{s.client, s.server}, {s.server, s.client}} {
			if err := pass(way[0], way[1], start.Add(time.Second)); err != nil {
				return nil, err
			}
		}
		all = append(all, float64(time.Since(start).Nanoseconds())/1000)
	}
	return all, nil
}

// pass sends a byte from one end to the other.
func pass(from, to int, until time.Time) error {
	var b [1]byte
	if _, err := unix.Write(from, b[:]); err != nil {
		return fmt.Errorf("write to a stream: %w", err)
	}
	for {
		switch _, err := unix.Read(to, b[:]); {
		case err == nil:
			return nil
		case !errors.Is(err, unix.EAGAIN):
			return fmt.Errorf("read from a stream: %w", err)
		case time.Now().After(until):
			return errors.New("a byte has not arrived for a second")
		}
	}
}
