package containerd

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
)

// object is a JSON object, as a conflist is made of.
type object map[string]any

// What the namespace payments may use, and the addresses that most tests do.
const (
	allowed4, allowed6 = "192.168.124.96/28", "fd00:124::60/124"
	egress4, egress6   = "192.168.124.99", "fd00:124::63"
)

// egressIP is the plugin's entry for enp7s0.
func egressIP(allowed ...string) object {
	return object{
		"type":         "egress-ip",
		"capabilities": object{"io.kubernetes.cri.pod-annotations": true},
		"links": []object{{
			"name":  nettest.SecondLink,
			"allow": []object{{"namespaces": []string{"payments"}, "addresses": allowed}},
		}},
		"clusterCIDRs": []string{"10.244.0.0/16", "10.96.0.0/12", "fd00:10:244::/56"},
	}
}

// configure writes the conflist, in place of the one that is there: bridge with addresses
// of both families from host-local, these plugins, and portmap.
func (d disk) configure(t *testing.T, plugins ...object) {
	t.Helper()
	all := []object{{
		"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "ipMasqBackend": "nftables",
		"ipam": object{
			"type":   "host-local",
			"ranges": [][]object{{{"subnet": "10.244.1.0/24"}}, {{"subnet": "fd00:10:244::/64"}}},
			"routes": []object{{"dst": "0.0.0.0/0"}, {"dst": "::/0"}},
		},
	}}
	all = append(all, plugins...)
	all = append(all, object{"type": "portmap", "backend": "nftables", "capabilities": object{"portMappings": true}})
	list, err := json.Marshal(object{"cniVersion": "1.0.0", "name": "pods", "plugins": all})
	require.NoError(t, err)
	path := filepath.Join(d.path("net.d"), "10-pods.conflist")
	require.NoError(t, os.WriteFile(path+".new", list, 0o600))
	require.NoError(t, os.Rename(path+".new", path))
}
