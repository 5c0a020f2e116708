package egress_test

import (
	"testing"

	"github.com/egress-ip/egress-ip/pkg/egress"
	"github.com/stretchr/testify/require"
)

// on is a pod's flow on a link.
func on(link string, index int, table, mark uint32) egress.Flow {
	return egress.Flow{
		Pod: addr("10.244.1.5"), Address: addr("192.168.124.99"), Link: link, Index: index, Table: table, Mark: mark, OwnsAddress: true,
	}
}

func TestRelocate(t *testing.T) {
	t.Parallel()
	links := []egress.Link{{Name: "enp7s0", Index: 140}, {Name: "enp8s0", Index: 135}}
	stays, moved := on("enp8s0", 135, 1135, 0x02000000), on("enp7s0", 140, 1140, 0x01000000)
	for name, tt := range map[string]struct{ have, want []egress.Flow }{
		"where it was":            {[]egress.Flow{stays}, []egress.Flow{stays}},
		"link created again":      {[]egress.Flow{on("enp7s0", 134, 1134, 0x01000000), stays}, []egress.Flow{moved, stays}},
		"back to a lower ifindex": {[]egress.Flow{on("enp8s0", 200, 1200, 0x02000000)}, []egress.Flow{stays}},
		"renamed":                 {[]egress.Flow{on("eth7", 140, 1140, 0x01000000), stays}, []egress.Flow{moved, stays}},
		"link gone":               {[]egress.Flow{on("enp9s0", 136, 1136, 0x03000000)}, []egress.Flow{on("enp9s0", 136, 1136, 0x03000000)}},
		"another is there already, with its mark":  {[]egress.Flow{on("enp7s0", 134, 1134, 0x01000000), on("enp7s0", 140, 1140, 0x05000000)}, []egress.Flow{on("enp7s0", 140, 1140, 0x05000000), on("enp7s0", 140, 1140, 0x05000000)}},
		"another is there, with another tableBase": {[]egress.Flow{on("enp7s0", 140, 2140, 0x01000000), on("enp7s0", 134, 1134, 0x01000000)}, []egress.Flow{on("enp7s0", 140, 2140, 0x01000000), on("enp7s0", 140, 2140, 0x01000000)}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var have, want []egress.Attachment
			for i := range tt.have { // each its own attachment
				have = append(have, egress.Attachment{Owner: egress.Owner{ContainerID: name}, Flows: []egress.Flow{tt.have[i]}})
				want = append(want, egress.Attachment{Owner: egress.Owner{ContainerID: name}, Flows: []egress.Flow{tt.want[i]}})
			}
			before := append([]egress.Flow(nil), tt.have...)
			require.Equal(t, want, egress.Relocate(have, egress.Node{Links: links}))
			for i := range have {
				require.Equal(t, before[i:i+1], have[i].Flows, "what was given has changed")
			}
		})
	}
}

// TestRelocateVRF: a link gets into a VRF, and out of it.
func TestRelocateVRF(t *testing.T) {
	t.Parallel()
	vrfs := egress.VRFRules{IPv4: 1000, IPv6: 1001}
	outside, inside := on("enp7s0", 140, 1140, 0x01000000), on("enp7s0", 140, 1140, 0x01000000)
	inside.VRFRule = 1000
	for table, tt := range map[uint32]struct{ have, want egress.Flow }{
		10:               {outside, inside},
		egress.MainTable: {inside, outside},
	} {
		node := egress.Node{Links: []egress.Link{{Name: "enp7s0", Index: 140, Table: table}}, VRFs: vrfs}
		moved := egress.Relocate([]egress.Attachment{{Flows: []egress.Flow{tt.have}}}, node)
		require.Equal(t, []egress.Flow{tt.want}, moved[0].Flows)
	}
}

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
