//go:build soak

package integration

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// soakStart is where the soak's clock is 0.
var soakStart = time.Now()

func now() int64 { return int64(time.Since(soakStart)) }

// streamNames are what a pod floods with, first over IPv4, then over IPv6. All but the first open
// a connection with each packet.
var streamNames = []string{
	"IPv4 UDP, one connection", "IPv4 UDP, new connections", "IPv4 TCP, new connections", "IPv4 pings",
	"IPv6 UDP, one connection", "IPv6 UDP, new connections", "IPv6 TCP, new connections", "IPv6 pings",
}

const (
	streamsOfFamily = 4
	streamsOfPod    = 2 * streamsOfFamily
)

// payload is what a packet of a flood says about itself.
type payload struct {
	number   uint16 // of the pod
	stream   uint8
	judged   bool // the pod's ADD had returned when the packet was made
	sequence uint32
	sent     int64
	address  netip.Addr // the pod's own
}

const payloadLength = 32

func (l payload) write(b []byte) {
	binary.BigEndian.PutUint16(b, l.number)
	b[2], b[3] = l.stream, 0
	if l.judged {
		b[3] = 1
	}
	binary.BigEndian.PutUint32(b[4:], l.sequence)
	binary.BigEndian.PutUint64(b[8:], uint64(l.sent))
	address := l.address.As16()
	copy(b[16:], address[:])
}

func (l *payload) read(b []byte) bool {
	if len(b) < payloadLength || b[2] >= streamsOfPod {
		return false
	}
	*l = payload{
		binary.BigEndian.Uint16(b), b[2], b[3] == 1, binary.BigEndian.Uint32(b[4:]), int64(binary.BigEndian.Uint64(b[8:])),
		netip.AddrFrom16([16]byte(b[16:])).Unmap(),
	}
	return true
}

// stream is one of a pod's kinds of packets, as its sender and as the world sees it.
type stream struct {
	tally
	sent     atomic.Uint64 // of judged ones
	sequence uint32        // the sender's
	last     uint32        // sequence number of the last right packet that has arrived
	first    atomic.Int64  // when the first right packet was sent
	latest   atomic.Int64  // and the last one
	resumed  atomic.Int64  // when the first right packet behind a gap was sent
}

// arrive notes a right packet. One that is overtaken opens a gap that it cannot close, for a moment.
func (s *stream) arrive(sequence uint32, sent int64) {
	if sequence <= s.last {
		return
	}
	if s.first.Load() == 0 {
		s.first.Store(sent)
	}
	if sequence != s.last+1 {
		s.resumed.Store(sent)
	}
	s.last = sequence
	s.latest.Store(sent)
}

// flooder is a pod that floods the world, all its life long.
type flooder struct {
	*direct
	number      uint16
	egress      [2]netip.Addr // what the world is to see; not valid: the pod is plain in this family
	begun       atomic.Int64  // when its ADD had returned; 0 before
	begin       chan struct{} // closed then
	ended       atomic.Bool
	streams     [streamsOfPod]stream
	connections [2]tally

	frames  []nettest.Frame
	kinds   []int // the stream of each frame
	sender  *nettest.Sender
	failed  error
	running sync.WaitGroup
	quit    context.CancelFunc
}

// flood begins to flood, with packets that are not judged until start is called.
func (f *flooder) flood(t *testing.T, pace time.Duration) {
	t.Helper()
	mac, gateway := f.Link(t, "eth0").Attrs().HardwareAddr, f.cluster.Node.Link(t, f.HostLink).Attrs().HardwareAddr
	var frames [][]byte
	for range *soakBurst - 1 {
		f.kinds = append(f.kinds, 0, streamsOfFamily)
	}
	for i := range streamsOfPod {
		f.kinds = append(f.kinds, i)
	}
	for _, i := range f.kinds {
		family := i / streamsOfFamily
		pod := netip.MustParseAddr(f.addresses[family])
		protocol, transport := floodPacket(i)
		frame := nettest.NewFrame(mac, gateway, pod, numberedIn(floodTo[family], f.number), protocol, transport)
		f.frames, frames = append(f.frames, frame), append(frames, frame)
	}
	f.sender = f.NewSender(t, "eth0", frames)
	ctx, quit := context.WithCancel(context.Background())
	f.quit, f.begin = quit, make(chan struct{})
	t.Cleanup(func() { f.end(t) })
	f.running.Go(func() { f.failed = f.spray(ctx, pace) })
	for family := range 2 {
		f.running.Go(func() {
			select {
			case <-ctx.Done():
				return
			case <-f.begin:
			}
			for ctx.Err() == nil {
				f.talk(ctx, t, family)
			}
		})
	}
}

// floodPacket is a packet of a stream, from its transport header on.
func floodPacket(stream int) (protocol uint8, transport []byte) {
	switch stream % streamsOfFamily {
	case 0, 1:
		transport = append([]byte{0x20, 0, 0, 9, 0, 8 + payloadLength, 0, 0}, make([]byte, payloadLength)...)
		return unix.IPPROTO_UDP, transport
	case 2: // a SYN
		transport = make([]byte, 20+payloadLength)
		copy(transport, []byte{0, 0, 0, 9, 12: 0x50, 13: 2, 14: 0xff, 15: 0xff})
		return unix.IPPROTO_TCP, transport
	}
	transport = make([]byte, 8+payloadLength)
	if stream < streamsOfFamily {
		transport[0] = 8
		return unix.IPPROTO_ICMP, transport
	}
	transport[0] = 128
	return unix.IPPROTO_ICMPV6, transport
}

// vary gives the next packet of a stream a source port, or an identifier.
func vary(stream int, transport []byte, turn uint32) {
	value := 10_000 + uint16(turn%50_000)
	switch stream % streamsOfFamily {
	case 1, 2:
		binary.BigEndian.PutUint16(transport, value)
	case 3:
		binary.BigEndian.PutUint16(transport[4:], value)
	}
}

// hurry is how many of a pod's first packets of each stream come one upon the other.
const hurry = 20

// spray sends some packets of each stream at a time.
func (f *flooder) spray(ctx context.Context, pace time.Duration) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	begin := f.begin
	for turn, since := uint32(0), 0; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-begin:
			begin = nil
		case <-timer.C:
		}
		load := payload{number: f.number, judged: f.begun.Load() != 0, sent: now()}
		turn++
		for at, frame := range f.frames {
			i := f.kinds[at]
			s := &f.streams[i]
			if load.judged {
				s.sequence++
				load.sequence = s.sequence
				s.sent.Add(1)
			}
			load.stream, load.address = uint8(i), netip.MustParseAddr(f.addresses[i/streamsOfFamily])
			transport := frame.Transport()
			vary(i, transport, turn)
			load.write(transport[len(transport)-payloadLength:])
			frame.Seal()
		}
		if err := f.sender.Send(0, len(f.frames)); err != nil {
			return err
		}
		next := pace
		switch {
		case !load.judged:
			next *= 4 // ADD has to get on, too
		case since < hurry:
			since++
			next /= 8
		}
		timer.Reset(next)
	}
}

// start is called as soon as ADD has returned: what is sent from now on is judged.
func (f *flooder) start() {
	f.begun.Store(now())
	close(f.begin)
}

// end ends the pod's processes; what they have sent is on its way when it returns.
func (f *flooder) end(t *testing.T) {
	t.Helper()
	f.ended.Store(true)
	f.quit()
	f.running.Wait()
	require.NoError(t, f.failed)
}

// talk has a conversation over TCP with the server, as long as it lasts. A pod's processes are killed before its DEL: here, too,
// a connection is reset when it is closed, and nothing is sent once talk has returned.
func (f *flooder) talk(ctx context.Context, t *testing.T, family int) {
	var conn net.Conn
	var err error
	limited, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	dialer := net.Dialer{Control: func(_, _ string, raw syscall.RawConn) error {
		return raw.Control(func(fd uintptr) {
			_ = unix.SetsockoptLinger(int(fd), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
		})
	}}
	f.Do(t, func() {
		conn, err = dialer.DialContext(limited, "tcp", netip.AddrPortFrom(numberedIn(connectionTo[family], f.number), 8081).String())
	})
	if err != nil {
		pause(ctx, 20*time.Millisecond) // it may be refused
		return
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Now()) })()
	answer := make([]byte, 64)
	for pause(ctx, 20*time.Millisecond) {
		_ = conn.SetDeadline(time.Now().Add(time.Second))
		if _, err := conn.Write([]byte("?")); err != nil {
			return
		}
		if _, err := conn.Read(answer); err != nil {
			return
		}
	}
}

// pause waits, and says whether there is more to do.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// refused counts what has been sent and has not arrived, wherever; call it when all has.
func (f *flooder) refused() (annotated, plain uint64) {
	for i := range f.streams {
		s := &f.streams[i]
		n := s.sent.Load() - s.right.Load() - s.wrong.Load()
		if f.egress[i/streamsOfFamily].IsValid() {
			annotated += n
		} else {
			plain += n
		}
	}
	return annotated, plain
}

func (f *flooder) String() string { return fmt.Sprintf("pod %d", f.number) }
