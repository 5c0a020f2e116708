package integration

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
)

// TestExamples runs every file of conflist-examples as it stands, but for where
// host-local keeps its leases.
func TestExamples(t *testing.T) {
	t.Parallel()
	for file, examine := range map[string]func(t *testing.T, c *cluster){
		"bridge.conflist": func(t *testing.T, c *cluster) {
			require.Equal(t, egress4, c.add(t, address(egress4)).sees(t, nettest.ServerAskIPv4))
			require.Equal(t, nettest.PrimaryIPv4, c.add(t, nil).sees(t, nettest.ServerAskIPv4))
		},
		"ptp.conflist": func(t *testing.T, c *cluster) {
			require.Equal(t, egress4, c.add(t, address(egress4)).sees(t, nettest.ServerAskIPv4))
			require.Equal(t, nettest.PrimaryIPv4, c.add(t, nil).sees(t, nettest.ServerAskIPv4))
		},
		"dual-stack.conflist": func(t *testing.T, c *cluster) {
			c.add(t, both).requireSeen(t, egress4, egress6)
			c.add(t, nil).requireSeen(t, nettest.PrimaryIPv4, nettest.PrimaryIPv6)
		},
		"two-teams.conflist": func(t *testing.T, c *cluster) {
			require.Equal(t, egress4, c.add(t, address(egress4)).sees(t, nettest.ServerAskIPv4))
			search := c.newPod(t, address("192.168.125.99"))
			search.namespace = "search-eu"
			search.add(t)
			require.Equal(t, "192.168.125.99", search.sees(t, nettest.ServerAskIPv4))
			anybody := c.newPod(t, annotations{"egress-ip.cni/link": "enp8s0"})
			anybody.add(t)
			require.Equal(t, nettest.ThirdIPv4, anybody.sees(t, nettest.ServerAskIPv4))
			out, err := c.newPod(t, address("192.168.125.99")).cnitool("add")
			require.Error(t, err)
			require.Contains(t, out, "payments")
		},
		"namespace.conflist": func(t *testing.T, c *cluster) {
			require.Equal(t, egress4, c.add(t, nil).sees(t, nettest.ServerAskIPv4))
			other := c.newPod(t, nil)
			other.namespace = "other"
			other.add(t)
			require.Equal(t, nettest.PrimaryIPv4, other.sees(t, nettest.ServerAskIPv4))
		},
		"probe-only.conflist": func(t *testing.T, c *cluster) {
			c.Router.AddAddress(t, nettest.RouterPrimaryLink, probeSource+"/64")
			c.Router.AddRoute(t, nettest.Route{Dst: "fd00:10:244:1::/64", Via: nettest.PrimaryIPv6, Link: nettest.RouterPrimaryLink})
			p := c.add(t, nil)
			p.ServeWhoAmI(t, nettest.WhoAmIPort)
			saw, err := c.probe(t, "fd00:10:244:1::2")
			require.NoError(t, err)
			require.Equal(t, probeTranslated, saw)
		},
	} {
		t.Run(file, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, nettest.LabOptions{ThirdLink: true, SecondDefault: file == "bridge.conflist"}, "1.0.0")
			data, err := os.ReadFile(filepath.Join("../conflist-examples", file))
			require.NoError(t, err)
			var list struct{ Name string }
			require.NoError(t, json.Unmarshal(data, &list))
			c.network = list.Name
			leases := `"type": "host-local", "dataDir": "` + t.TempDir() + `"`
			require.Contains(t, string(data), `"type": "host-local"`)
			data = []byte(strings.ReplaceAll(string(data), `"type": "host-local"`, leases))
			require.NoError(t, os.WriteFile(filepath.Join(c.dir, "10-net.conflist"), data, 0o600))
			examine(t, c)
		})
	}
	files, err := filepath.Glob("../conflist-examples/*.conflist")
	require.NoError(t, err)
	require.Len(t, files, 6)
}
