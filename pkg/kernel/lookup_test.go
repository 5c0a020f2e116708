package kernel

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/egress-ip/egress-ip/pkg/egress"
	"github.com/google/nftables"
	"github.com/stretchr/testify/require"
)

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
