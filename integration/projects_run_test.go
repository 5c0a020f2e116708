package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
)

// The egress network of the projects whose pods have 192.168.0.0/16.
const (
	testNetNode, testNetGateway, testNetEgress = "198.51.100.10", "198.51.100.1", "198.51.100.99"
)

// addTestNet gives the egress link that network too.
func (c *cluster) addTestNet(t *testing.T) {
	t.Helper()
	c.Node.AddAddress(t, nettest.SecondLink, testNetNode+"/24")
	c.Router.AddAddress(t, nettest.RouterSecondLink, testNetGateway+"/24")
}

// TestProjectsRun runs each project's conflist with our entry in its place: as it
// stands where all of its plugins are reference plugins; flannel's with the
// configuration that it hands down to the bridge plugin; and the others with ptp
// instead of the project's own plugin, which shows what egress-ip does in that list,
// at that version, and no more.
func TestProjectsRun(t *testing.T) {
	t.Parallel()
	for name, main := range map[string]func(t *testing.T, project object) object{
		"bridge":      asItStands,
		"kindnet":     asItStands,
		"flannel":     asFlannelDelegates("10.244.0.0/16", "10.244.1.0/24"),
		"k3s":         asFlannelDelegates("10.42.0.0/16", "10.42.1.0/24"),
		"calico":      routedInstead("192.168.1.0/24"),
		"cilium":      routedInstead("192.168.1.0/24"),
		"aws-vpc-cni": routedInstead("192.168.1.0/24"),
		"azure":       routedInstead("10.244.1.0/24"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			list, _ := readProject(t, name)
			plugins := list.plugins()
			plugins[0] = main(t, plugins[0])
			plugins = slices.DeleteFunc(plugins, func(p object) bool { return p["type"] == "cilium-cni" || p["type"] == "egress-cni" })
			if ipam, ok := plugins[0]["ipam"].(map[string]any); ok {
				ipam["dataDir"] = t.TempDir()
			}
			list["plugins"] = plugins

			c := newCluster(t, nettest.LabOptions{}, "1.0.0")
			c.addTestNet(t)
			c.masqueradeBehind(t)
			c.network = list["name"].(string)
			data, err := json.Marshal(list)
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(filepath.Join(c.dir, "10-net.conflist"), data, 0o600))
			egress := egress4
			if name == "calico" || name == "cilium" {
				egress = testNetEgress
			}
			c.requireProject(t, egress)
		})
	}
}

// requireProject attaches a plain and an annotated pod, whose source is the egress
// address, and detaches them; and one whose annotation is refused.
func (c *cluster) requireProject(t *testing.T, egress string) {
	t.Helper()
	c.add(t, nil).del(t) // the first leaves empty tables of the reference plugins
	plain := c.add(t, nil)
	require.Equal(t, nettest.PrimaryIPv4, plain.sees(t, nettest.ServerAskIPv4))
	before := c.state(t)

	annotated := c.add(t, address(egress))
	require.Equal(t, egress, annotated.sees(t, nettest.ServerAskIPv4))
	require.Equal(t, nettest.PrimaryIPv4, plain.sees(t, nettest.ServerAskIPv4))
	stranger := c.newPod(t, address(egress))
	stranger.namespace = "strangers"
	out, err := stranger.cnitool("add")
	require.Error(t, err)
	require.Contains(t, out, "strangers")
	stranger.del(t)
	annotated.del(t)
	require.Equal(t, before, c.state(t))
	plain.del(t)
	c.requireNoAttachment(t)
}

// masqueradeBehind is the masquerade of an agent (flanneld, kindnetd, Felix, ...),
// none of which is in a conflist.
func (c *cluster) masqueradeBehind(t *testing.T) {
	t.Helper()
	c.command(t, "nft", `
		add table ip agent
		add chain ip agent postrouting { type nat hook postrouting priority srcnat; }
		add rule ip agent postrouting fib saddr type != local oifname != "cni0" masquerade`)
}

func asItStands(_ *testing.T, project object) object { return project }

// asFlannelDelegates gives what flannel makes of its delegate and of
// /run/flannel/subnet.env, with FLANNEL_IPMASQ=true.
func asFlannelDelegates(network, subnet string) func(t *testing.T, project object) object {
	return func(t *testing.T, project object) object {
		return merge(project["delegate"].(map[string]any), object{
			"type": "bridge", "isGateway": true, "ipMasq": false, "mtu": 1450,
			"ipam": map[string]any{
				"type": "host-local", "ranges": [][]object{{{"subnet": subnet}}}, "routes": []object{{"dst": network}},
			},
		})
	}
}

// routedInstead is ptp, which like the plugins of Calico, AWS and Azure (transparent
// mode) gives each pod a veth and a route.
func routedInstead(subnet string) func(t *testing.T, project object) object {
	return func(t *testing.T, _ object) object {
		return object{"type": "ptp", "ipam": map[string]any{
			"type": "host-local", "ranges": [][]object{{{"subnet": subnet}}}, "routes": []object{{"dst": "0.0.0.0/0"}},
		}}
	}
}

// TestProjectsMarks: whoever owns mark bits may rewrite all of them at any time, here
// between the classification and the routing decision. With the mask of the
// project's entry that changes nothing; Calico's bits are those of the default mask.
func TestProjectsMarks(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		bits   uint32 // that are rewritten
		egress string
	}{
		"calico": {0xffff0000, testNetEgress},
		"cilium": {0xffff0f00, testNetEgress},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, nettest.LabOptions{}, "1.0.0")
			c.addTestNet(t)
			c.masqueradeBehind(t)
			c.command(t, "nft", fmt.Sprintf(`
				add table ip owner
				add chain ip owner prerouting { type filter hook prerouting priority 0; }
				add rule ip owner prerouting iifname "veth*" meta mark set meta mark and %#x xor %#x`, ^tt.bits, tt.bits&0xa5a5a5a5))
			entry := readObject(t, filepath.Join(projectsDir, name, "entry.json"))
			pod := c.newRouted(t, "annotated", "192.168.1.5", entry)
			pod.add(t, address(tt.egress))
			require.Equal(t, tt.egress, pod.sees(t, nettest.ServerAskIPv4))
			pod.del(t)

			delete(entry, "markMask")
			delete(entry, "maskedMarks")
			pod.add(t, address(tt.egress))
			saw, err := pod.Ask("udp", nettest.ServerAskIPv4)
			require.Truef(t, err != nil || saw.String() != tt.egress, "the default mask does as well, so the entry needs none: %s", saw)
		})
	}
}

// newRouted makes a pod without IPv6.
func (c *cluster) newRouted(t *testing.T, id, ipv4 string, entry object) *direct {
	t.Helper()
	return &direct{c.PodVeth(t, ipv4, ""), c, id, entry, []string{ipv4}}
}
