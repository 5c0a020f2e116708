package kernel

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/egress-ip/egress-ip/pkg/watch"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

const tick = time.Millisecond

var waitFor = nettest.Within(20 * time.Second)

// heard is a namespace whose events stay with the kernel until they are looked for.
type heard struct {
	*nettest.Namespace
	events *Events
}

// newHeard makes a namespace with nothing but lo, of which no news is to come, and
// subscribes; the kernel keeps this many bytes of events.
func newHeard(t *testing.T, buffer int) heard {
	t.Helper()
	h := heard{Namespace: nettest.New(t, "node")}
	// The kernel's last word on ::1 is its route, a moment after lo is up.
	require.Eventually(t, func() bool {
		return strings.Contains(h.command(t, "ip", "-6", "route", "show", "table", "local"), "local ::1")
	}, waitFor, tick)
	h.Do(t, func() {
		var err error
		h.events, err = subscribe(buffer)
		require.NoError(t, err)
	})
	t.Cleanup(h.events.Close)
	return h
}

func (h heard) command(t *testing.T, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	require.NoError(t, h.Run(cmd), "%s: %s", cmd, &out)
	return out.String()
}

// shell runs commands of which each has ended, and its events are in the sockets'
// queues, when the next begins.
func (h heard) shell(t *testing.T, script string) {
	t.Helper()
	h.command(t, "sh", "-ec", script)
}

// any takes what the sockets have.
func (h heard) any(t *testing.T) bool {
	t.Helper()
	any := false
	for _, s := range h.events.sockets {
		raw, err := s.SyscallConn()
		require.NoError(t, err)
		require.NoError(t, raw.Control(func(fd uintptr) {
			for {
				some, err := s.take(int(fd), make([]byte, 1<<16))
				require.NoError(t, err)
				if !some {
					return
				}
				any = true
			}
		}))
	}
	return any
}

// manyTables is a ruleset with a lot of other people's tables, which are before ours.
func manyTables(t *testing.T, more string) string {
	t.Helper()
	var b strings.Builder
	for i := range 300 {
		fmt.Fprintf(&b, "table ip t%d {\n\tset s {\n\t\ttype ipv4_addr; elements = { 192.0.2.1, 192.0.2.2 }\n\t}\n\tchain c {\n\t\tip saddr @s drop\n\t}\n}\n", i)
	}
	file := filepath.Join(t.TempDir(), "many.nft")
	require.NoError(t, os.WriteFile(file, []byte(b.String()+more), 0o600))
	return "nft -f " + file
}

// TestEventsOf: each kind of change that may matter, alone, is heard of.
func TestEventsOf(t *testing.T) {
	t.Parallel()
	const table = "nft add table inet egress_ip; nft add set inet egress_ip s '{ type ipv4_addr; }'; nft add chain inet egress_ip c"
	for name, tt := range map[string]struct{ before, change string }{
		"link":              {"", "ip link set lo alias new"},
		"link 255":          {"ip link add v index 255 type veth peer name w", "ip link set v mtu 1400"}, // table local is 255
		"IPv4 address":      {"", "ip address add 192.0.2.1/32 dev lo"},
		"IPv4 address gone": {"ip address add 192.0.2.1/32 dev lo", "ip address del 192.0.2.1/32 dev lo"},
		"IPv6 address":      {"", "ip address add 2001:db8::1/128 dev lo noprefixroute nodad"},
		"IPv4 route":        {"", "ip route add unreachable 192.0.2.0/24"},
		"IPv4 route gone":   {"ip route add unreachable 192.0.2.0/24 table 1003", "ip route flush table 1003"},
		"IPv6 route":        {"", "ip route add unreachable 2001:db8::/32 table 1003"},
		"nexthop object":    {"", "ip nexthop add id 7 blackhole"},
		"IPv4 rule":         {"", "ip rule add from 192.0.2.1 lookup 1003"},
		"IPv6 rule":         {"", "ip -6 rule add from 2001:db8::1 lookup 1003"},
		"rp_filter":         {"", "echo 2 >/proc/sys/net/ipv4/conf/all/rp_filter"},
		"table":             {"", "nft add table inet egress_ip"},
		"chain":             {table, "nft add chain inet egress_ip d"},
		"rule":              {table, "nft add rule inet egress_ip c accept"},
		"set":               {table, "nft add set inet egress_ip d '{ type ipv4_addr; }'"},
		"element":           {table, "nft add element inet egress_ip s '{ 192.0.2.1 }'"},
		"flush chain":       {table + "; nft add rule inet egress_ip c accept", "nft flush chain inet egress_ip c"},
		"delete table":      {table, "nft delete table inet egress_ip"},
		"flush ruleset":     {table, "nft flush ruleset"},
		"probe table":       {"", "nft add table ip6 egress_ip_probe"},
		"Azure's table":     {"", "nft add table ip6 azureSLBProbe"},
		"last in a flush":   {manyTables(t, "table inet egress_ip {}"), "nft flush ruleset"},
		"last in a batch":   {"", manyTables(t, "table inet egress_ip {}")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHeard(t, receiveBuffer)
			h.shell(t, tt.before)
			h.any(t)
			h.shell(t, tt.change)
			// The kernel tells of an IPv6 address a moment later.
			require.Eventually(t, func() bool { return h.any(t) }, waitFor, tick)
		})
	}
}

// TestEventsNotOf: what others do all day wakes nobody.
func TestEventsNotOf(t *testing.T) {
	t.Parallel()
	h := newHeard(t, receiveBuffer)
	for _, change := range []string{
		"ip neigh add 192.0.2.7 lladdr 02:00:00:00:00:01 dev lo nud permanent",
		"ip neigh add 2001:db8::7 lladdr 02:00:00:00:00:01 dev lo nud permanent",
		"ip route add local 192.0.2.7/32 dev lo table local; ip route del local 192.0.2.7/32 dev lo table local",
		"ip route add local 2001:db8::7/128 dev lo table local; ip route del local 2001:db8::7/128 dev lo table local",
		"nft add table ip x; nft delete table ip x",
		"nft add table inet egress; nft add table inet azure; nft add table inet xegress_ip; nft flush ruleset",
		manyTables(t, ""),
		"nft add element ip t0 s '{ " + strings.Join(hosts(1000), ", ") + " }'",
		"nft flush ruleset",
	} {
		h.shell(t, change)
		require.False(t, h.any(t), change)
	}
}

// TestEventsThatCannotBeRead: whatever they are about, they matter.
func TestEventsThatCannotBeRead(t *testing.T) {
	t.Parallel()
	message := func(typ uint16, body ...byte) []byte {
		m := binary.NativeEndian.AppendUint32(nil, uint32(unix.SizeofNlMsghdr+len(body)))
		m = binary.NativeEndian.AppendUint16(m, typ)
		return append(append(m, make([]byte, 10)...), body...)
	}
	const newTable = unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWTABLE
	foreign := message(newTable, 0, 0, 0, 0, 8, 0, 1, 0, 'x', 'y', 'z', 0)
	local := message(unix.RTM_NEWROUTE, 0, 0, 0, 0, unix.RT_TABLE_LOCAL, 0, 0, 0)
	require.False(t, anyMatters(slices.Repeat(foreign, 200), nftMatters))
	require.False(t, anyMatters(slices.Repeat(local, 200), routeMatters))
	for name, unreadable := range map[string][]byte{
		"half a header":     foreign[:10],
		"longer than it is": foreign[:len(foreign)-4],
		"length 0":          make([]byte, unix.SizeofNlMsghdr),
		"no attribute":      message(newTable, 0, 0, 0, 0),
		"no body":           message(newTable),
		"half an attribute": message(newTable, 0, 0, 0, 0, 9, 0, 1, 0),
	} {
		require.True(t, anyMatters(slices.Concat(foreign, unreadable), nftMatters), name)
	}
	require.True(t, anyMatters(slices.Concat(local, message(unix.RTM_NEWROUTE)), routeMatters))
}

// TestEventsTooLarge: what did not fit into the buffer may be what matters.
func TestEventsTooLarge(t *testing.T) {
	t.Parallel()
	h := newHeard(t, receiveBuffer)
	h.shell(t, "printf 'table ip x {}\\ntable inet egress_ip {}\\n' | nft -f -")
	s := h.events.sockets[1]
	raw, err := s.SyscallConn()
	require.NoError(t, err)
	require.NoError(t, raw.Control(func(fd uintptr) {
		header := make([]byte, unix.SizeofNlMsghdr)
		whole, _, err := unix.Recvfrom(int(fd), header, unix.MSG_PEEK|unix.MSG_TRUNC)
		require.NoError(t, err)
		first := binary.NativeEndian.Uint32(header)
		require.Greater(t, whole, int(first))
		some, err := s.take(int(fd), make([]byte, first))
		require.NoError(t, err)
		require.True(t, some)
	}))
}

func hosts(n int) []string {
	var hosts []string
	for i := range n {
		hosts = append(hosts, fmt.Sprintf("198.51.%d.%d", i/250, i%250))
	}
	return hosts
}

// watching is a loop that hears of h's events and counts.
func watching(t *testing.T, h heard) *atomic.Int32 {
	t.Helper()
	require.NoError(t, h.events.start(func(err error) { t.Errorf("broken: %v", err) }))
	ctx, stop := context.WithCancel(t.Context())
	var calls atomic.Int32
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		watch.Run(ctx, h.events.C, func() ([]string, error) { calls.Add(1); return nil, nil }, watch.Manager{Notify: func(string) {}}, watch.Period)
	}()
	t.Cleanup(func() { stop(); <-ended })
	return &calls
}

// requireSettled waits until there were no more calls for several times as long as
// a burst may pause, and returns how many there are.
func requireSettled(t *testing.T, calls *atomic.Int32) int32 {
	t.Helper()
	last, since := calls.Load(), time.Now()
	require.Eventually(t, func() bool {
		if now := calls.Load(); now != last {
			last, since = now, time.Now()
		}
		return last > 0 && time.Since(since) > time.Second
	}, waitFor, tick)
	return last
}

// batch is a file for ip -batch that adds routes.
func batch(t *testing.T, routes int) string {
	t.Helper()
	var b strings.Builder
	for i := range routes {
		fmt.Fprintf(&b, "route add unreachable 10.%d.%d.0/24 table 1003\n", i/250, i%250)
	}
	file := filepath.Join(t.TempDir(), "batch")
	require.NoError(t, os.WriteFile(file, []byte(b.String()), 0o600))
	return file
}

// TestStorm: 10,000 routes at once are one resync, and one more each time that they take
// the machine longer than one may be put off.
func TestStorm(t *testing.T) {
	t.Parallel()
	h := newHeard(t, receiveBuffer)
	calls := watching(t, h)
	before := requireSettled(t, calls)
	require.EqualValues(t, 1, before)
	const putOff = 2 * time.Second
	began := time.Now()
	h.command(t, "ip", "-batch", batch(t, 10000))
	lasted := time.Since(began)
	after := requireSettled(t, calls)
	require.Greater(t, after, before)
	require.LessOrEqual(t, after, before+2+int32(lasted/putOff))
}

// TestLostEvents: when there was no room for an event the loop hears of that, and of
// what comes later.
func TestLostEvents(t *testing.T) {
	t.Parallel()
	h := newHeard(t, 1)
	h.command(t, "ip", "-batch", batch(t, 1000))
	require.Contains(t, h.drops(t), true)
	calls := watching(t, h)
	require.EqualValues(t, 2, requireSettled(t, calls)) // at the start, and for what was lost
	for i := range 3 {
		h.shell(t, "ip route flush table 1003; ip -batch "+batch(t, 1000))
		require.Greater(t, requireSettled(t, calls), int32(2+i))
	}
}

// drops says of each netlink socket of the namespace whether it has lost something.
func (h heard) drops(t *testing.T) []bool {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(h.command(t, "cat", "/proc/self/net/netlink")), "\n")
	var drops []bool
	for _, line := range lines[1:] {
		fields := strings.Fields(line)
		require.Len(t, fields, 10, lines[0])
		drops = append(drops, fields[8] != "0")
	}
	return drops
}
