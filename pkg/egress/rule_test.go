package egress_test

import (
	"slices"
	"testing"

	"github.com/egress-ip/egress-ip/pkg/egress"
	"github.com/stretchr/testify/require"
)

// attachment is one pod with an IPv4 flow by the link with ifindex 3.
func attachment(priority uint32, pod string, cluster ...string) egress.Attachment {
	return egress.Attachment{
		Owner: egress.Owner{ContainerID: pod, IfName: "eth0"}, RulePriority: priority, MarkMask: 0xf000000,
		ClusterCIDRs: prefixes(cluster...),
		Flows:        []egress.Flow{{Pod: addr(pod), Address: addr("192.168.124.99"), Link: "enp7s0", Index: 3, Table: 1003, Mark: 0x1000000}},
	}
}

// TestOurs: the kernel's own rules are not taken for ours at any priority that may be
// configured, and all of ours are.
func TestOurs(t *testing.T) {
	t.Parallel()
	kernels := []egress.Rule{
		{Priority: 0, Family: egress.IPv4, Table: 255},
		{Priority: 32766, Family: egress.IPv4, Table: egress.MainTable},
		{Priority: 32767, Family: egress.IPv4, Table: 253},
	}
	for _, priority := range []uint32{1, 2, 3, 6000, 32764, 32765} {
		a := attachment(priority, "10.244.1.5")
		ours := a.Rules(a.Flows[0])
		require.Equal(t, []uint32{priority}, egress.SourcePriorities(ours))
		require.Equal(t, ours, egress.Ours(slices.Concat(kernels, ours), []uint32{priority}), "priority %d", priority)

		// Those of a link in a VRF, wherever the rule for VRFs is.
		a.Flows[0].VRFRule = 1000
		ours = a.Rules(a.Flows[0])
		require.Equal(t, ours, egress.Ours(slices.Concat(kernels, ours), []uint32{priority}), "priority %d", priority)
	}
	require.Empty(t, egress.Ours([]egress.Rule{
		{Priority: 5998, Family: egress.IPv4, From: prefix("10.244.1.5/32"), Table: 1003},
		{Priority: 5999, Family: egress.IPv4, Mask: 0xf, Mark: 1, Table: 1003},
		{Priority: 6000, Family: egress.IPv4, Mask: 0xf, Mark: 1, Table: 1003},
		{Priority: 6001, Family: egress.IPv4, From: prefix("10.244.1.5/32")},
		{Priority: 5997, Family: egress.IPv4, Mask: 0xf, Mark: 1, Table: 1003},
		{Priority: 6002, Family: egress.IPv4},
		{Priority: 998, Family: egress.IPv4, Mask: 0xf, Mark: 1, Table: 1003},
		{Priority: 999, Family: egress.IPv4, Mask: 0xf, Mark: 2, Table: egress.MainTable, MinBits: 1},
		{Priority: 999, Family: egress.IPv4, Mask: 0xf, Mark: 1, Table: egress.MainTable},
	}, []uint32{6000}))
}

// TestVRFRules: of a link in a VRF they are before the rule for VRFs, if there is room; of any
// other there are none.
func TestVRFRules(t *testing.T) {
	t.Parallel()
	a := attachment(6000, "10.244.1.5", "10.244.0.0/16")
	without := a.SharedRules(a.Flows[0])
	for at, want := range map[uint32][]string{
		0: nil, 2: nil,
		3: {
			"1: from all fwmark 0x1000000/0xf000000 lookup 1003",
			"2: from all fwmark 0x1000000/0xf000000 lookup main suppress_prefixlength 0",
		},
		32000: {
			"31998: from all fwmark 0x1000000/0xf000000 lookup 1003",
			"31999: from all fwmark 0x1000000/0xf000000 lookup main suppress_prefixlength 0",
		},
	} {
		f := a.Flows[0]
		f.VRFRule = at
		var more []string
		for _, r := range egress.Missing(a.SharedRules(f), without) {
			more = append(more, r.String())
		}
		require.Equal(t, want, more, "%d", at)
	}
}
