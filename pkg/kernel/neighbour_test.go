package kernel

import (
	"net/netip"
	"testing"
	"time"

	"github.com/egress-ip/egress-ip/pkg/egress"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestAwaitIsOver: where the time for answers is over before they are waited for, as on a machine
// that was busy meanwhile, there is no wait. poll takes a negative time for one without an end.
func TestAwaitIsOver(t *testing.T) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	t.Cleanup(func() { unix.Close(fd) })
	over := make(chan error, 1)
	go func() {
		_, err := await([]*question{{neighbours: neighbours{fd: fd}}}, time.Now().Add(-10*time.Millisecond))
		over <- err
	}()
	select {
	case err := <-over:
		require.NoError(t, err)
	case <-time.After(10 * time.Second):
		t.Fatal("still waits")
	}
}

// What another host says, and what it does not.
func TestAnswer(t *testing.T) {
	ours, theirs := []byte{2, 0, 0, 0, 0, 1}, []byte{2, 0, 0, 0, 0, 2}
	address4, address6 := netip.MustParseAddr("192.168.124.99"), netip.MustParseAddr("fd00:124::99")
	arp := func(mac []byte, sender, target string) []byte {
		message := []byte{0, 1, 8, 0, 6, 4, 0, arpReply}
		message = append(append(message, mac...), netip.MustParseAddr(sender).AsSlice()...)
		return append(append(message, make([]byte, 6)...), netip.MustParseAddr(target).AsSlice()...)
	}
	for name, tt := range map[string]struct {
		address netip.Addr
		message []byte
		claimed bool
	}{
		"its owner":              {address4, arp(theirs, "192.168.124.99", "192.168.124.10"), true},
		"another that probes":    {address4, arp(theirs, "0.0.0.0", "192.168.124.99"), true},
		"one that looks for it":  {address4, arp(theirs, "192.168.124.7", "192.168.124.99"), false},
		"another address":        {address4, arp(theirs, "192.168.124.98", "192.168.124.10"), false},
		"ourselves":              {address4, arp(ours, "192.168.124.99", "192.168.124.99"), false},
		"cut short":              {address4, arp(theirs, "192.168.124.99", "192.168.124.10")[:20], false},
		"IPv6 owner":             {address6, neighbourMessage(ndAdvert, ndOverride, address6, optionTarget, theirs), true},
		"IPv6 another address":   {address6, neighbourMessage(ndAdvert, 0, netip.MustParseAddr("fd00:124::98"), optionTarget, theirs), false},
		"IPv6 ourselves":         {address6, neighbourMessage(ndAdvert, 0, address6, optionTarget, ours), false},
		"IPv6 solicitation":      {address6, neighbourMessage(ndSolicit, 0, address6, optionSource, theirs), false},
		"IPv6 without an option": {address6, neighbourMessage(ndAdvert, 0, address6, optionTarget, theirs)[:ndLength], true},
		"IPv6 cut short":         {address6, neighbourMessage(ndAdvert, 0, address6, optionTarget, theirs)[:10], false},
	} {
		t.Run(name, func(t *testing.T) {
			q := question{address: egress.Address{Link: 1, Address: tt.address}, neighbours: neighbours{mac: ours}}
			require.Equal(t, tt.claimed, q.answer(tt.message) != nil)
		})
	}
	require.Equal(t, "ff02::1:ff00:99", solicitedNode(address6).String())
}
