package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
)

// attachments lists the container IDs that are recorded.
func (c *cluster) attachments(t *testing.T) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(c.recordDir(t), "attachments"))
	if os.IsNotExist(err) {
		return nil
	}
	require.NoError(t, err)
	var ids []string
	for _, e := range entries {
		id, _, _ := strings.Cut(e.Name(), ":")
		ids = append(ids, id)
	}
	return ids
}

// gcStdin is what a runtime sends with GC, with more keys on top.
func gcStdin(t *testing.T, network string, more object) string {
	t.Helper()
	stdin := object{"cniVersion": "1.1.0", "name": network}
	for k, v := range noProbe {
		stdin[k] = v
	}
	for k, v := range more {
		stdin[k] = v
	}
	data, err := json.Marshal(stdin)
	require.NoError(t, err)
	return string(data)
}

// TestGC: what the list of valid attachments does not name goes, of this network
// alone; a runtime that sends no list has not said that none is valid.
func TestGC(t *testing.T) {
	t.Parallel()
	c := newNode(t)
	elsewhere := egressIP(object{"probeSNAT": object{"mode": "never"}, "name": "other"})
	stays := c.newDirect(t, "stays", "10.244.1.5", "fd00:10:244::5", noProbe)
	shares := c.newDirect(t, "shares", "10.244.1.6", "fd00:10:244::6", noProbe) // stays' egress address
	apart := c.newDirect(t, "apart", "10.244.1.7", "fd00:10:244::7", noProbe)
	other := c.newDirect(t, "other", "10.244.1.8", "fd00:10:244::8", elsewhere)
	all := []string{"apart", "other", "shares", "stays"}
	before := c.state(t)
	other.add(t, others)
	onlyOther := c.state(t)
	stays.add(t, both)
	afterStays := c.state(t)
	list := func(ids ...string) []object {
		valid := []object{}
		for _, id := range ids {
			valid = append(valid, object{"containerID": id, "ifname": "eth0"})
		}
		return valid
	}
	for _, tt := range []struct {
		name    string
		network string
		more    object
		remain  []string
	}{
		{"no list", "net", nil, all},
		{"null", "net", object{"cni.dev/valid-attachments": nil}, all},
		{"empty list of a network that has none", "third", object{"cni.dev/valid-attachments": list()}, all},
		{"all", "net", object{"cni.dev/valid-attachments": list("stays", "shares", "apart")}, all},
		{"one, and one that is unknown", "net", object{"cni.dev/valid-attachments": list("stays", "unknown")}, []string{"other", "stays"}},
		{"one, under the old name too", "net", object{"cni.dev/valid-attachments": list("stays"), "cni.dev/attachments": list("stays")}, []string{"other", "stays"}},
		{"one, with a configuration that ADD refuses", "net", object{"cni.dev/valid-attachments": list("stays"), "rulePriorty": 1}, []string{"other", "stays"}},
		{"the container's other interface", "net", object{"cni.dev/valid-attachments": []object{
			{"containerID": "stays", "ifname": "eth0"}, {"containerID": "shares", "ifname": "eth1"},
		}}, []string{"other", "stays"}},
		{"those of another network's pods", "net", object{"cni.dev/valid-attachments": list("other", "stays")}, []string{"other", "stays"}},
		{"empty list", "net", object{"cni.dev/valid-attachments": list()}, []string{"other"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			stays.add(t, both)
			shares.add(t, both)
			apart.add(t, address(egress4+",fd00:124::9b"))
			stands := c.state(t)
			for range 2 {
				out, err := c.plugin(call{command: "GC", stdin: gcStdin(t, tt.network, tt.more)})
				require.NoError(t, err)
				require.Empty(t, out)
				require.Equal(t, tt.remain, c.attachments(t))
				switch len(tt.remain) {
				case len(all):
					require.Equal(t, stands, c.state(t))
					apart.requireSeen(t, egress4, "fd00:124::9b")
				case 2:
					require.Equal(t, afterStays, c.state(t))
				case 1:
					require.Equal(t, onlyOther, c.state(t))
				}
				if slices.Contains(tt.remain, "stays") {
					stays.requireSeen(t, egress4, egress6)
				}
				other.requireSeen(t, other4, other6)
			}
		})
	}
	_, err := c.plugin(call{command: "GC", stdin: gcStdin(t, "other", object{"cni.dev/valid-attachments": list()})})
	require.NoError(t, err)
	require.Equal(t, before, c.state(t))
}

// TestGCByRuntime: `cnitool gc` deletes what libcni remembers of the network, and
// sends no list; so what libcni does not know of stays.
func TestGCByRuntime(t *testing.T) {
	t.Parallel()
	c := newCluster(t, nettest.LabOptions{SecondDefault: true}, "1.1.0")
	// libcni's memory is one for the machine: a network name of our own keeps the
	// pods of tests that run at the same time out of it.
	c.network = fmt.Sprintf("gc-%s", filepath.Base(c.recordDir(t)))
	c.configure(t, "1.1.0", ptp(t), noProbe)
	c.add(t, nil).del(t) // ptp leaves empty tables of its own
	entry := egressIP(object{"probeSNAT": object{"mode": "never"}, "name": c.network})
	unknown := c.newDirect(t, "unknown", "10.244.2.5", "fd00:10:244::2:5", entry)
	before := c.state(t)
	unknown.add(t, others)
	stands := c.state(t)

	p := c.add(t, both)
	p.requireSeen(t, egress4, egress6)
	out, err := p.cnitool("gc")
	require.NoError(t, err, out)
	require.Equal(t, []string{"unknown"}, c.attachments(t))
	require.Equal(t, stands, c.state(t))
	unknown.requireSeen(t, other4, other6)
	unknown.del(t)
	require.Equal(t, before, c.state(t))
}

// TestStatus: STATUS comes without a pod, and passes whatever is wrong with the
// configuration: its error would make the whole node NotReady. It changes nothing.
func TestStatus(t *testing.T) {
	t.Parallel()
	c := newNode(t)
	before := c.state(t)
	for _, tt := range []struct {
		name  string
		stdin object
	}{
		{"good", egressIP(nil)},
		{"nothing configured", nil},
		{"misspelt key", object{"rulePriorty": 6000}},
		{"link that is not there", object{"links": []object{{"name": "enp9s9"}}}},
		{"address that is none", object{"clusterCIDRs": []string{"10.244.0.0/99"}}},
		{"value of another type", object{"tableBase": "1000"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			stdin := object{"cniVersion": "1.1.0", "name": "net", "type": "egress-ip"}
			for k, v := range tt.stdin {
				stdin[k] = v
			}
			data, err := json.Marshal(stdin)
			require.NoError(t, err)
			out, err := c.plugin(call{command: "STATUS", stdin: string(data)})
			require.NoError(t, err)
			require.Empty(t, out)
		})
	}
	require.Equal(t, before, c.state(t))

	c.configure(t, "1.1.0", ptp(t), egressIP(object{"rulePriorty": 6000}))
	out, err := c.newPod(t, nil).cnitool("status")
	require.NoError(t, err, out)
}

// TestVersion: VERSION lists what the plugin speaks, with no stdin at all or any.
func TestVersion(t *testing.T) {
	t.Parallel()
	c := newNode(t)
	for _, stdin := range []string{"", "{}", `{"cniVersion":"1.0.0"}`, `{"cniVersion":"9.9.9"}`, "garbage"} {
		out, err := c.plugin(call{command: "VERSION", stdin: stdin})
		require.NoError(t, err)
		var version struct {
			CNIVersion        string
			SupportedVersions []string
		}
		require.NoError(t, json.Unmarshal([]byte(out), &version))
		require.Equal(t, []string{"0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"}, version.SupportedVersions)
		require.NotEmpty(t, version.CNIVersion)
	}
}
