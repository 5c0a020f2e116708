package kernel

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestIPVSAddress: endpoints as the kernel prints them, and what is none.
func TestIPVSAddress(t *testing.T) {
	t.Parallel()
	for endpoint, want := range map[string]string{
		"0A60000A:0050": "10.96.0.10",
		"CB007150:1F90": "203.0.113.80",
		"[2001:0db8:0080:0000:0000:0000:0000:0080]:1F90": "2001:db8:80::80",
		"00000001":          "", // a mark
		"LocalAddress:Port": "",
		"0A6000:0050":       "",
		"[2001:db8::g]:1":   "",
		"":                  "",
	} {
		address, _ := netip.ParseAddr(want)
		require.Equal(t, address, ipvsAddress(endpoint), endpoint)
	}
}
