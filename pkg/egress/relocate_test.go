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
		"link created anew":       {[]egress.Flow{on("enp7s0", 134, 1134, 0x01000000), stays}, []egress.Flow{moved, stays}},
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
