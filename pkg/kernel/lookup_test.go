package kernel

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/egress-ip/egress-ip/pkg/egress"
	"github.com/google/nftables"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func TestToPolicy(t *testing.T) {
	t.Parallel()
	mask := uint32(0xf000000)
	rule := func(edit func(*netlink.Rule)) netlink.Rule {
		r := netlink.NewRule()
		edit(r)
		r.Priority = 100
		return *r
	}
	for name, tt := range map[string]struct {
		rule netlink.Rule
		want egress.PolicyRule
	}{
		"all": {rule(func(r *netlink.Rule) { r.Table = 254 }), egress.PolicyRule{Table: 254}},
		"addresses": {rule(func(r *netlink.Rule) {
			r.Src, r.Dst = fromPrefix(netip.MustParsePrefix("10.0.0.0/8")), fromPrefix(netip.MustParsePrefix("203.0.113.80/32"))
		}), egress.PolicyRule{From: netip.MustParsePrefix("10.0.0.0/8"), To: netip.MustParsePrefix("203.0.113.80/32")}},
		"mark":       {rule(func(r *netlink.Rule) { r.Invert, r.Mark, r.Mask = true, 0x1000000, &mask }), egress.PolicyRule{Not: true, Mark: 0x1000000, Mask: mask}},
		"links":      {rule(func(r *netlink.Rule) { r.IifName, r.OifName = "lo", "eth0" }), egress.PolicyRule{In: "lo", Out: "eth0"}},
		"goto":       {rule(func(r *netlink.Rule) { r.Goto = 6001 }), egress.PolicyRule{Goto: 6001}},
		"suppressed": {rule(func(r *netlink.Rule) { r.SuppressPrefixlen = 0 }), egress.PolicyRule{MinBits: 1}},
		"TOS":        {rule(func(r *netlink.Rule) { r.Tos = 16 }), egress.PolicyRule{More: "tos 0x10"}},
		"ports": {rule(func(r *netlink.Rule) {
			r.IPProto, r.Sport, r.Dport = unix.IPPROTO_TCP, netlink.NewRulePortRange(1, 2), netlink.NewRulePortRange(443, 443)
		}), egress.PolicyRule{More: "ipproto 6 sport 1-2 dport 443-443"}},
		"user":   {rule(func(r *netlink.Rule) { r.UIDRange = netlink.NewRuleUIDRange(0, 7) }), egress.PolicyRule{More: "uidrange 0-7"}},
		"tunnel": {rule(func(r *netlink.Rule) { r.TunID = 9 }), egress.PolicyRule{More: "tun_id 9"}},
		"group":  {rule(func(r *netlink.Rule) { r.SuppressIfgroup = 0 }), egress.PolicyRule{More: "suppress_ifgroup 0"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tt.want.Priority = 100
			require.Equal(t, tt.want, toPolicy(tt.rule))
		})
	}
}

// What a set is said to hold is what it was made from.
func TestFromCluster(t *testing.T) {
	t.Parallel()
	var prefixes []netip.Prefix
	for _, p := range []string{"10.1.0.0/16", "10.0.0.0/16", "10.4.0.0/16", "224.0.0.0/3"} {
		prefixes = append(prefixes, netip.MustParsePrefix(p))
	}
	made := egress.Classes{Cluster: prefixes}.ClusterElements()
	backward := slices.Clone(intervals(made))
	slices.Reverse(backward)
	for _, in := range [][]nftables.SetElement{intervals(made), backward} {
		require.Equal(t, made, fromCluster("cluster4", in))
	}
	key := func(s string) []byte { return netip.MustParseAddr(s).AsSlice() }
	require.Empty(t, fromCluster("cluster4", nil))
	// nft itself begins with an end, and knows ranges that are no network.
	require.Empty(t, fromCluster("cluster4", []nftables.SetElement{{Key: key("0.0.0.0"), IntervalEnd: true}}))
	require.Equal(t, []egress.Element{{Set: "cluster4", Pod: netip.MustParseAddr("10.0.0.1")}},
		fromCluster("cluster4", []nftables.SetElement{{Key: key("10.0.0.1")}, {Key: key("10.0.0.9"), IntervalEnd: true}}))
}
