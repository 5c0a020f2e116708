package kernel

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/egress-ip/egress-ip/pkg/egress"
	"github.com/google/nftables"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
)

// The machines that the tests run on have no VRF, so the decision is tested alone.
func TestTableOfMaster(t *testing.T) {
	require.EqualValues(t, 10, tableOf(&netlink.Vrf{Table: 10}))
	require.EqualValues(t, egress.MainTable, tableOf(&netlink.Bridge{}))
	require.EqualValues(t, egress.MainTable, tableOf(&netlink.Bond{}))
}

func TestIntervals(t *testing.T) {
	key := func(s string) []byte { return netip.MustParseAddr(s).AsSlice() }
	for name, tt := range map[string]struct {
		prefixes []string
		want     []nftables.SetElement
	}{
		"none": {nil, nil},
		"one":  {[]string{"10.244.0.0/16"}, []nftables.SetElement{{Key: key("10.244.0.0")}, {Key: key("10.245.0.0"), IntervalEnd: true}}},
		"one inside another": {[]string{"10.244.1.0/24", "10.0.0.0/8", "10.244.0.0/16"}, []nftables.SetElement{
			{Key: key("10.0.0.0")}, {Key: key("11.0.0.0"), IntervalEnd: true},
		}},
		"side by side": {[]string{"10.1.0.0/16", "10.0.0.0/16"}, []nftables.SetElement{
			{Key: key("10.0.0.0")}, {Key: key("10.1.0.0"), IntervalEnd: true},
			{Key: key("10.1.0.0")}, {Key: key("10.2.0.0"), IntervalEnd: true},
		}},
		"up to the last address": {[]string{"224.0.0.0/3"}, []nftables.SetElement{{Key: key("224.0.0.0"), IntervalOpen: true}}},
		"IPv6":                   {[]string{"fd00:10::/32"}, []nftables.SetElement{{Key: key("fd00:10::")}, {Key: key("fd00:11::"), IntervalEnd: true}}},
	} {
		t.Run(name, func(t *testing.T) {
			var prefixes []netip.Prefix
			for _, p := range tt.prefixes {
				prefixes = append(prefixes, netip.MustParsePrefix(p))
			}
			elements := egress.Classes{Cluster: prefixes}.ClusterElements()
			require.Equal(t, tt.want, intervals(elements))
			if len(elements) > 0 {
				require.Equal(t, elements, fromCluster(elements[0].Set, slices.Clone(tt.want)))
			}
		})
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
