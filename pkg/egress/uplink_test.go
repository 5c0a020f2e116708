package egress_test

import (
	"testing"

	"github.com/egress-ip/egress-ip/pkg/egress"
	"github.com/stretchr/testify/require"
)

// TestUplinks: they are the egress links, those of the default route, and, beside configured
// cluster networks, those with an address that is not the cluster's.
func TestUplinks(t *testing.T) {
	t.Parallel()
	on := func(index int, network string) egress.LinkAddress {
		return egress.LinkAddress{Index: index, Network: prefix(network)}
	}
	addresses := []egress.LinkAddress{
		on(2, "192.0.2.10/24"), on(3, "192.168.124.10/24"), on(3, "fd00:124::10/64"), on(4, "172.30.0.1/24"),
		on(5, "169.254.20.10/32"),  // node-local DNS
		on(6, "10.244.1.1/24"),     // the pods' bridge
		on(7, "10.244.1.1/32"),     // a pod's veth
		on(8, "fd00:8::1/64"),      // IPv6 alone
		on(9, "198.51.100.200/32"), // kube-ipvs0
	}
	named := attachment(6000, "10.244.1.5", "10.244.0.0/16", "192.0.2.0/24")
	derived := attachment(6000, "10.244.1.5")
	other := attachment(6000, "10.244.1.5", "10.96.0.0/12") // of which the pods' network is none
	ipv6 := attachment(6000, "fd00:10:244::5", "10.244.0.0/16")
	vrf := attachment(6000, "10.244.1.5") // its link is in a VRF
	vrf.Flows[0].VRFRule, vrf.Flows[0].In = 1000, 7
	for _, tt := range []struct {
		attachments []egress.Attachment
		byDefault   []int
		want        []int
	}{
		{nil, []int{2}, nil},
		{[]egress.Attachment{ipv6}, []int{2}, nil},
		{[]egress.Attachment{named}, []int{2, 10}, []int{2, 3, 4, 9, 10}},
		{[]egress.Attachment{derived}, []int{2}, []int{2, 3}},
		{[]egress.Attachment{derived}, nil, []int{3}},
		{[]egress.Attachment{ipv6, named, derived}, nil, []int{3, 4, 9}},
		{[]egress.Attachment{vrf}, []int{2}, []int{2, 3, 7}},
		{[]egress.Attachment{other}, []int{2}, []int{2, 3, 4, 7, 9}},
	} {
		require.Equal(t, tt.want, egress.Uplinks(tt.attachments, addresses, tt.byDefault))
	}
}
