package integration

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
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
				start(t, d.bundle(t, resync, s.Node.Path(), nil), "from now on")
				return func(done func() bool) { require.Eventually(t, done, waitFor, tick) }
			})
		})
	}
	require.ElementsMatch(t, inContainer, tried)
}

// TestDaemonSetInstalls: without any capability the container installs what the
// ConfigMap says, puts it back, follows the ConfigMap, and leaves all when it ends.
func TestDaemonSetInstalls(t *testing.T) {
	t.Parallel()
	d := readDaemonSet(t)
	standIns := map[string]string{"cni-bin": t.TempDir(), "cni-conf": t.TempDir(), "config": t.TempDir()}
	entry, namespace := configuredEntry(t), `"payments"`
	project(t, standIns["config"], "..first", entry)
	conflist := filepath.Join(standIns["cni-conf"], "10-net.conflist")
	rewrite := func() {
		list := `{"cniVersion": "1.0.0", "name": "net", "plugins": [{"type": "bridge"}]}`
		require.NoError(t, os.WriteFile(conflist, []byte(list), 0o600))
	}
	binary := filepath.Join(standIns["cni-bin"], "egress-ip")
	want, err := os.ReadFile(filepath.Join(bin, "egress-ip"))
	require.NoError(t, err)
	installed := func() bool {
		have, err := os.ReadFile(binary)
		var list struct{ Plugins []json.RawMessage }
		data, errList := os.ReadFile(conflist)
		return err == nil && errList == nil && bytes.Equal(have, want) && json.Unmarshal(data, &list) == nil &&
			len(list.Plugins) == 2 && strings.Contains(string(list.Plugins[1]), namespace)
	}
	rewrite()
	stop := start(t, d.bundle(t, d.named(t, "install"), nettest.New(t, "node").Path(), standIns), "")
	require.Eventually(t, installed, waitFor, tick)
	require.NoError(t, os.Remove(binary))
	rewrite()
	require.Eventually(t, installed, waitFor, tick)
	namespace = `"search"`
	project(t, standIns["config"], "..second", strings.Replace(entry, `"payments"`, namespace, 1))
	require.Eventually(t, installed, waitFor, tick)
	stop()
	require.True(t, installed())
}

// project writes entry.json as a kubelet does: it is a link through ..data, itself a link
// to the folder of this generation, and replaced by another.
func project(t *testing.T, volume, generation, entry string) {
	t.Helper()
	require.NoError(t, os.Mkdir(filepath.Join(volume, generation), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(volume, generation, "entry.json"), []byte(entry), 0o644))
	if err := os.Symlink("..data/entry.json", filepath.Join(volume, "entry.json")); err != nil {
		require.ErrorIs(t, err, os.ErrExist)
	}
	require.NoError(t, os.Symlink(generation, filepath.Join(volume, "..data_tmp")))
	require.NoError(t, os.Rename(filepath.Join(volume, "..data_tmp"), filepath.Join(volume, "..data")))
}

// configuredEntry is the entry of the ConfigMap.
func configuredEntry(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile(manifests + "configmap.yaml")
	require.NoError(t, err)
	var configMap struct{ Data map[string]string }
	require.NoError(t, yaml.Unmarshal(data, &configMap))
	return configMap.Data["entry.json"]
}

// TestDaemonSetEntry: the ConfigMap's entry is one that ADD takes.
func TestDaemonSetEntry(t *testing.T) {
	t.Parallel()
	var entry object
	require.NoError(t, json.Unmarshal([]byte(configuredEntry(t)), &entry))
	d := newNode(t).newDirect(t, "pod", "10.244.1.5", "fd00:10:244::5", entry)
	d.add(t, address(egress4))
	require.Equal(t, egress4, (&pod{Namespace: d.Namespace}).sees(t, nettest.ServerAskIPv4))
}
