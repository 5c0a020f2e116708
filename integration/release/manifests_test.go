package release

import (
	"bytes"
	"encoding/json"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

const manifests = root + "/conflist-examples/kubernetes"

// objects are those of all manifests.
type objects struct {
	serviceAccounts []core.ServiceAccount
	configMaps      []core.ConfigMap
	daemonSets      []apps.DaemonSet
}

// readManifests reads them as the API server does when it is told to be strict.
func readManifests(t *testing.T) objects {
	t.Helper()
	files, err := filepath.Glob(manifests + "/*.yaml")
	require.NoError(t, err)
	var all objects
	for _, file := range files {
		data, err := os.ReadFile(file)
		require.NoError(t, err)
		for document := range bytes.SplitSeq(data, []byte("\n---\n")) {
			var kind struct{ APIVersion, Kind string }
			require.NoError(t, yaml.Unmarshal(document, &kind))
			switch kind.APIVersion + " " + kind.Kind {
			case "v1 ServiceAccount":
				all.serviceAccounts = append(all.serviceAccounts, strict[core.ServiceAccount](t, document))
			case "v1 ConfigMap":
				all.configMaps = append(all.configMaps, strict[core.ConfigMap](t, document))
			case "apps/v1 DaemonSet":
				all.daemonSets = append(all.daemonSets, strict[apps.DaemonSet](t, document))
			default:
				require.Fail(t, "unknown kind", "%s: %+v", file, kind)
			}
		}
	}
	return all
}

// strict reads an object that has no key twice, nor one that its type does not have.
func strict[T any](t *testing.T, document []byte) (object T) {
	t.Helper()
	require.NoError(t, yaml.UnmarshalStrict(document, &object))
	return object
}

// TestManifests: they fit the API's types and each other.
func TestManifests(t *testing.T) {
	t.Parallel()
	all := readManifests(t)
	require.Len(t, all.serviceAccounts, 1)
	require.Len(t, all.configMaps, 1)
	require.Len(t, all.daemonSets, 1)
	account, config, set := all.serviceAccounts[0], all.configMaps[0], all.daemonSets[0]
	pod := set.Spec.Template.Spec
	require.Equal(t, set.Spec.Selector.MatchLabels, set.Spec.Template.Labels)
	require.Equal(t, set.Name, account.Name)
	require.Equal(t, account.Name, pod.ServiceAccountName)
	for _, namespace := range []string{account.Namespace, config.Namespace, set.Namespace} {
		require.Equal(t, "kube-system", namespace)
	}

	// It asks the API for nothing.
	require.Equal(t, new(bool), account.AutomountServiceAccountToken)
	require.Equal(t, new(bool), pod.AutomountServiceAccountToken)

	// On every node, early, and one after the other.
	require.True(t, pod.HostNetwork)
	require.Equal(t, []core.Toleration{{Operator: core.TolerationOpExists}}, pod.Tolerations)
	require.Equal(t, "system-node-critical", pod.PriorityClassName)
	require.Equal(t, apps.RollingUpdateDaemonSetStrategyType, set.Spec.UpdateStrategy.Type)
	require.Equal(t, 1, set.Spec.UpdateStrategy.RollingUpdate.MaxUnavailable.IntValue())
	require.Positive(t, set.Spec.MinReadySeconds)

	require.Contains(t, config.Data, "entry.json")
	var entry struct{ Type string }
	require.NoError(t, json.Unmarshal([]byte(config.Data["entry.json"]), &entry))
	require.Equal(t, "egress-ip", entry.Type)
}

// TestPrivileges: containers have no more than this of the node.
func TestPrivileges(t *testing.T) {
	t.Parallel()
	pod := readManifests(t).daemonSets[0].Spec.Template.Spec
	require.False(t, pod.HostPID || pod.HostIPC)
	require.Equal(t, core.SeccompProfileTypeRuntimeDefault, pod.SecurityContext.SeccompProfile.Type)
	require.Empty(t, pod.InitContainers)
	require.Len(t, pod.Containers, 2)
	for _, c := range pod.Containers {
		s := c.SecurityContext
		require.Nil(t, s.Privileged, c.Name)
		require.Nil(t, s.SeccompProfile, c.Name)
		require.False(t, *s.AllowPrivilegeEscalation, c.Name)
		require.True(t, *s.ReadOnlyRootFilesystem, c.Name)
		require.Equal(t, []core.Capability{"ALL"}, s.Capabilities.Drop, c.Name)
		require.Nil(t, c.Lifecycle, "a pod that ends takes nothing away")
		require.Contains(t, c.Resources.Requests, core.ResourceCPU, c.Name)
		require.Contains(t, c.Resources.Requests, core.ResourceMemory, c.Name)
		require.NotContains(t, c.Resources.Limits, core.ResourceCPU, c.Name)
	}
	paths := map[string]core.HostPathType{}
	for _, v := range pod.Volumes {
		if v.HostPath != nil {
			paths[v.HostPath.Path] = *v.HostPath.Type
		}
	}
	require.Equal(t, map[string]core.HostPathType{
		"/opt/cni/bin":            core.HostPathDirectoryOrCreate,
		"/etc/cni/net.d":          core.HostPathDirectoryOrCreate,
		"/run/egress-ip":          core.HostPathDirectoryOrCreate,
		"/proc/sys/net/ipv4/conf": core.HostPathDirectory,
	}, paths)
}

// TestContainers: what they run, and with which files of the node at the place where the
// binary looks for them.
func TestContainers(t *testing.T) {
	t.Parallel()
	pod := readManifests(t).daemonSets[0].Spec.Template.Spec
	hostPaths := map[string]string{"config": "/config"} // by volume
	for _, v := range pod.Volumes {
		if v.HostPath != nil {
			hostPaths[v.Name] = v.HostPath.Path
		}
	}
	for name, want := range map[string]struct {
		args         string
		capabilities []core.Capability
		mounts       []string
	}{
		"install": {"install --watch --entry /config/entry.json", nil, []string{"/opt/cni/bin", "/etc/cni/net.d", "/config", "/run/egress-ip"}},
		"resync": {"resync --watch", []core.Capability{"NET_ADMIN", "NET_RAW"},
			[]string{"/run/egress-ip", "/host/proc/sys/net/ipv4/conf"}},
	} {
		i := slices.IndexFunc(pod.Containers, func(c core.Container) bool { return c.Name == name })
		require.GreaterOrEqual(t, i, 0, name)
		c := pod.Containers[i]
		require.Empty(t, c.Command, name) // the image's entry point is the binary
		require.Equal(t, want.args, strings.Join(c.Args, " "), name)
		require.Equal(t, want.capabilities, c.SecurityContext.Capabilities.Add, name)
		var mounts []string
		for _, m := range c.VolumeMounts {
			require.Contains(t, hostPaths, m.Name)
			require.Contains(t, []string{hostPaths[m.Name], path.Join("/host", hostPaths[m.Name])}, m.MountPath)
			require.Equal(t, m.Name == "config", m.ReadOnly, m.Name)
			mounts = append(mounts, m.MountPath)
		}
		require.Equal(t, want.mounts, mounts, name)
		// As `make image` names it.
		require.Equal(t, "localhost/egress-ip:VERSION", c.Image, name)
		require.Equal(t, core.PullIfNotPresent, c.ImagePullPolicy, name)
	}
}
