package integration

import (
	"encoding/json"
	"os"
	"slices"
	"testing"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

// TestDaemonSetCapabilities: the watcher has the capabilities of the unit, which are
// shown to be enough and needed; what installs has none.
func TestDaemonSetCapabilities(t *testing.T) {
	t.Parallel()
	d := readDaemonSet(t)
	require.ElementsMatch(t, unitValues(t)["Service.CapabilityBoundingSet"], d.named(t, "resync").capabilities(t))
	require.Empty(t, d.named(t, "install").capabilities(t))
}

// inContainer are disasters of each kind: for rules, routes, nftables, announced
// addresses, the sysctl, and the record.
var inContainer = []string{
	"rules deleted, all", "table flushed", "ruleset flushed", "probe table deleted", "addresses deleted",
	"src_valid_mark cleared", "record damaged in all ways",
}

// TestDaemonSetHeals: in a container that has no more than the manifest gives it, the
// watcher puts right what it does as a process of the node.
func TestDaemonSetHeals(t *testing.T) {
	t.Parallel()
	d := readDaemonSet(t)
	resync := d.named(t, "resync")
	var tried []string
	for _, disaster := range disasters() {
		if !slices.Contains(inContainer, disaster.name) {
			continue
		}
		tried = append(tried, disaster.name)
		t.Run(disaster.name, func(t *testing.T) {
			t.Parallel()
			s := newStricken(t, disaster.config, disaster.prepare)
			disaster.strike(t, s, func(t *testing.T, s *stricken) func(func() bool) {
				start(t, d.bundle(t, resync, s.Node.Path()), "from now on")
				return func(done func() bool) { require.Eventually(t, done, waitFor, tick) }
			})
		})
	}
	require.ElementsMatch(t, inContainer, tried)
}

// TestDaemonSetEntry: the ConfigMap's entry is one that ADD takes.
func TestDaemonSetEntry(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile(manifests + "configmap.yaml")
	require.NoError(t, err)
	var configMap struct{ Data map[string]string }
	require.NoError(t, yaml.Unmarshal(data, &configMap))
	var entry object
	require.NoError(t, json.Unmarshal([]byte(configMap.Data["entry.json"]), &entry))
	d := newNode(t).newDirect(t, "pod", "10.244.1.5", "fd00:10:244::5", entry)
	d.add(t, address(egress4))
	require.Equal(t, egress4, (&pod{Namespace: d.Namespace}).sees(t, nettest.ServerAskIPv4))
}
