package nettest

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestFramesAreAnswered: the kernel drops what has a wrong checksum, before and after its content has changed.
func TestFramesAreAnswered(t *testing.T) {
	t.Parallel()
	lab := NewLab(t, LabOptions{})
	pod := lab.PodVeth(t, "10.244.1.5", "fd00:10:244::5")
	mac, gateway := pod.Link(t, "eth0").Attrs().HardwareAddr, lab.Node.Link(t, pod.HostLink).Attrs().HardwareAddr
	const closed = 99 // a port
	tcp := make([]byte, 20+13)
	copy(tcp, []byte{0x20, 0, 0, closed, 12: 0x50, 13: 2}) // SYN
	for _, tt := range []struct {
		name      string
		src, dst  string
		protocol  uint8
		transport []byte
		answer    func(p Packet) bool
	}{
		{"UDP", "10.244.1.5", PrimaryIPv4, unix.IPPROTO_UDP, []byte{0x20, 0, 0, closed, 0, 9, 0, 0, 1}, func(p Packet) bool { return p.Protocol == unix.IPPROTO_ICMP && p.ICMPType == 3 }},
		{"UDP", "fd00:10:244::5", PrimaryIPv6, unix.IPPROTO_UDP, []byte{0x20, 0, 0, closed, 0, 9, 0, 0, 1}, func(p Packet) bool { return p.Protocol == unix.IPPROTO_ICMPV6 && p.ICMPType == 1 }},
		{"TCP", "10.244.1.5", PrimaryIPv4, unix.IPPROTO_TCP, tcp, func(p Packet) bool { return p.Protocol == unix.IPPROTO_TCP }},
		{"TCP", "fd00:10:244::5", PrimaryIPv6, unix.IPPROTO_TCP, tcp, func(p Packet) bool { return p.Protocol == unix.IPPROTO_TCP }},
		{"ping", "10.244.1.5", PrimaryIPv4, unix.IPPROTO_ICMP, []byte{8, 0, 0, 0, 1, 2, 0, 1, 5}, func(p Packet) bool { return p.Protocol == unix.IPPROTO_ICMP && p.ICMPType == 0 }},
		{"ping", "fd00:10:244::5", PrimaryIPv6, unix.IPPROTO_ICMPV6, []byte{128, 0, 0, 0, 1, 2, 0, 1, 5}, func(p Packet) bool { return p.Protocol == unix.IPPROTO_ICMPV6 && p.ICMPType == 129 }},
	} {
		t.Run(tt.name+" "+tt.src, func(t *testing.T) {
			frame := NewFrame(mac, gateway, netip.MustParseAddr(tt.src), netip.MustParseAddr(tt.dst), tt.protocol, tt.transport)
			sender := pod.NewSender(t, "eth0", [][]byte{frame})
			answers := pod.Capture(t, "eth0")
			for sent := 1; sent <= 2; sent++ {
				require.NoError(t, sender.Send(0, 1))
				require.Eventually(t, func() bool {
					return answers.Count(func(p Packet) bool { return !p.Outgoing && tt.answer(p) }) == sent
				}, Within(5*time.Second), time.Millisecond)
				frame.Transport()[len(tt.transport)-1]++
				frame.Seal()
			}
		})
	}
}

// TestReceiverTellsWhenPacketsArrived: a packet that is read late has not arrived late.
func TestReceiverTellsWhenPacketsArrived(t *testing.T) {
	t.Parallel()
	lab := NewLab(t, LabOptions{})
	pod := lab.PodVeth(t, "10.244.1.5", "fd00:10:244::5")
	mac, gateway := pod.Link(t, "eth0").Attrs().HardwareAddr, lab.Node.Link(t, pod.HostLink).Attrs().HardwareAddr
	frame := NewUDPFrame(mac, gateway, netip.MustParseAddrPort("10.244.1.5:9"), netip.MustParseAddrPort(ServerIPv4+":9"))
	receiver := lab.Node.NewReceiver(t, 1<<20)
	sender := pod.NewSender(t, "eth0", [][]byte{frame})
	// The kernel begins to note times a moment after somebody has asked it to.
	require.Eventually(t, func() bool {
		before := time.Now()
		require.NoError(t, sender.Send(0, 1))
		sent := time.Now()
		time.Sleep(20 * time.Millisecond)
		var arrived time.Time
		require.NoError(t, receiver.Receive(func(at time.Time, link int, _ []byte) {
			if link == lab.Node.Index(t, pod.HostLink) {
				arrived = at
			}
		}))
		return !arrived.Before(before) && !arrived.After(sent)
	}, Within(5*time.Second), time.Millisecond)
}
