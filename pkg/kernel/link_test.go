package kernel

import (
	"testing"

	"github.com/egress-ip/egress-ip/pkg/egress"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
)

// The machines that the tests run on have no VRF, so the decision is tested alone.
func TestTableOfMaster(t *testing.T) {
	require.EqualValues(t, 10, tableOf(&netlink.Vrf{Table: 10}))
	require.EqualValues(t, egress.MainTable, tableOf(&netlink.Bridge{}))
	require.EqualValues(t, egress.MainTable, tableOf(&netlink.Bond{}))
}
