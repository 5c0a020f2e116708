package kernel

import (
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"github.com/egress-ip/egress-ip/pkg/egress"
	"github.com/mdlayher/netlink"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// The kernel's rules are read as `ip rule` wrote them, in their order.
func TestReadRules(t *testing.T) {
	t.Parallel()
	node, k := newRoutes(t)
	prefix := netip.MustParsePrefix
	const mark, mask = 0x1000000, 0xf000000
	for _, tt := range []struct {
		family egress.Family
		text   string // of `ip rule add priority 100`
		want   egress.Rule
	}{
		{egress.IPv4, "lookup main", egress.Rule{Table: 254}},
		{egress.IPv4, "from 10.0.0.0/8 to 203.0.113.80 lookup 7", egress.Rule{From: prefix("10.0.0.0/8"), To: prefix("203.0.113.80/32"), Table: 7}},
		{egress.IPv6, "from 2001:db8::/32 to 2001:db8::80 lookup 7", egress.Rule{From: prefix("2001:db8::/32"), To: prefix("2001:db8::80/128"), Table: 7}},
		{egress.IPv4, "from 10.244.1.5 lookup 1134 protocol kernel", egress.Rule{From: prefix("10.244.1.5/32"), Table: 1134}},
		{egress.IPv4, "not fwmark 0x1000000/0xf000000 goto 32766", egress.Rule{Not: true, Mark: mark, Mask: mask, Goto: 32766}},
		{egress.IPv4, "fwmark 0/0xf000000 nop", egress.Rule{Mask: mask}},
		{egress.IPv6, "iif lo oif eth0 lookup 7", egress.Rule{In: "lo", Out: "eth0", Table: 7}},
		{egress.IPv4, "lookup main suppress_prefixlength 0", egress.Rule{Table: 254, MinBits: 1}},
		{egress.IPv4, "lookup main suppress_ifgroup 0", egress.Rule{Table: 254, More: "suppress_ifgroup 0"}},
		{egress.IPv4, "tos 0x10 lookup 7", egress.Rule{Table: 7, More: "tos 0x10"}},
		{egress.IPv6, "ipproto tcp sport 1-2 dport 443 lookup 7", egress.Rule{Table: 7, More: "ipproto 6 sport 1-2 dport 443-443"}},
		{egress.IPv4, "uidrange 0-7 lookup 7", egress.Rule{Table: 7, More: "uidrange 0-7"}},
		{egress.IPv4, "tun_id 9 lookup 7", egress.Rule{Table: 7, More: "tun_id 9"}},
		{egress.IPv4, "prohibit", egress.Rule{Refuses: egress.Prohibit}},
	} {
		ip := func(command string) {
			args := append([]string{"-" + string(rune('0'+tt.family)), "rule", command, "priority", "100"}, strings.Fields(tt.text)...)
			require.NoError(t, node.Run(exec.Command("ip", args...)), "%s", args)
		}
		ip("add")
		tt.want.Priority = 100
		rules, err := k.rules(tt.family, func(ruleMessage) bool { return true })
		require.NoError(t, err)
		tt.want.Family = tt.family
		main := egress.Rule{Priority: 32766, Family: tt.family, Table: 254}
		var read []egress.Rule
		for _, r := range rules {
			read = append(read, r.Rule)
			if r.Priority == 100 {
				require.Equal(t, strings.Contains(tt.text, "protocol kernel"), r.protocol == unix.RTPROT_KERNEL, tt.text)
			}
		}
		require.Equal(t, []egress.Rule{{Family: tt.family, Table: 255}, tt.want, main}, read[:3], tt.text)
		ip("del")
	}
}

// A selector that is not known does not make a rule one for all packets.
func TestUnknownSelector(t *testing.T) {
	const later = 0xff
	m := make([]byte, unix.SizeofRtMsg)
	m[0] = unix.AF_INET
	e := netlink.NewAttributeEncoder()
	e.Uint32(unix.FRA_TABLE, 7)
	e.Uint8(later, 1)
	attributes, err := e.Encode()
	require.NoError(t, err)
	r, err := parseRule(append(m, attributes...))
	require.NoError(t, err)
	require.False(t, r.Matches(egress.Packet{}), "%+v", r)
	require.True(t, r.MayMatch(egress.Packet{}), "%+v", r)
}

// FuzzParseRule: whatever comes is read, or refused.
func FuzzParseRule(f *testing.F) {
	m := make([]byte, unix.SizeofRtMsg)
	e := netlink.NewAttributeEncoder()
	e.Uint32(unix.FRA_PRIORITY, 100)
	e.Bytes(unix.FRA_SRC, []byte{10, 244, 1, 5})
	e.String(unix.FRA_IIFNAME, "eth0")
	e.Bytes(unix.FRA_UID_RANGE, make([]byte, 8))
	e.Bytes(unix.FRA_SPORT_RANGE, make([]byte, 4))
	e.Uint8(unix.FRA_IP_PROTO, unix.IPPROTO_TCP)
	attributes, err := e.Encode()
	require.NoError(f, err)
	f.Add(append(m, attributes...))
	f.Add(m[:3])
	f.Fuzz(func(t *testing.T, m []byte) {
		r, err := parseRule(m)
		if err == nil && r.From.IsValid() {
			require.Equal(t, m[unix.SizeofRtMsg-10], uint8(r.From.Bits()))
		}
	})
}
