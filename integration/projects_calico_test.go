package integration

import (
	"path/filepath"
	"testing"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
)

// felix is what Felix does with marks, in nftables, for pods whose links are veths:
// all of its bits are cleared first; 0x80000 says that a packet is a pod's, and then
// the way back to its source, looked up with the mark, must be the link by which it
// has come; 0x10000 says that policies let it pass. All else is dropped.
const felix = `
table ip felix {
	chain raw-prerouting {
		type filter hook prerouting priority raw
		meta mark set meta mark and 0xffe0ffff
		iifname "veth*" meta mark set meta mark or 0x80000
		meta mark and 0x80000 == 0x80000 fib saddr . mark . iif oif 0 drop
	}
	chain forward {
		type filter hook forward priority filter; policy drop
		ct state established,related accept
		iifname "veth*" meta mark set meta mark or 0x10000
		meta mark and 0x10000 == 0x10000 accept
	}
	chain nat-postrouting {
		type nat hook postrouting priority srcnat
		ip saddr 192.168.0.0/16 ip daddr != 192.168.0.0/16 masquerade
	}
}
`

// TestCalicoMarks: Felix and egress-ip leave each other's bits as they are. A plain
// pod's packet, which has Felix's, skips the source rules all the same.
func TestCalicoMarks(t *testing.T) {
	t.Parallel()
	const others, link, pods, passed = 0xf00, 0x100, 0x80000, 0x10000
	entry := readObject(t, filepath.Join(projectsDir, "calico", "entry.json"))
	c := newCluster(t, nettest.LabOptions{}, "1.0.0")
	c.addTestNet(t)
	c.load(t, felix, "nft", "-f")
	c.load(t, foreign, "nft", "-f")
	plain := c.newRouted(t, "plain", "192.168.1.4", entry)
	plain.add(t, nil)
	annotated := c.newRouted(t, "annotated", "192.168.1.5", entry)
	annotated.add(t, address(testNetEgress))

	ask := func(d *direct, want string) func() {
		return func() {
			saw, err := d.Ask("udp", nettest.ServerAskIPv4)
			require.NoError(t, err)
			require.Equal(t, want, saw.String())
		}
	}
	c.requireMarks(t, annotated.HostLink, nettest.SecondLink, link|pods|passed, link, ask(annotated, testNetEgress))
	c.requireMarks(t, plain.HostLink, nettest.PrimaryLink, others|pods|passed, others, ask(plain, nettest.PrimaryIPv4))
	require.Equal(t, testNetEgress, annotated.sees(t, nettest.ServerAskIPv4))
}
