package integration

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/version"
	"github.com/egress-ip/egress-ip/pkg/config"
	"github.com/stretchr/testify/require"
)

const projectsDir = "../conflist-examples"

// projects are the folders of conflist-examples with a project's conflist, and the
// mark bits which others on such a node own: kube-proxy's 0xc000, portmap's 0x2000
// (its iptables backend masquerades whatever has it) and the project's.
var projects = map[string]uint32{
	"aws-vpc-cni": 0xe000 | 0x80,
	"azure":       0xe000,
	"bridge":      0xe000,
	"calico":      0xe000 | 0xffff0000,
	"cilium":      0xe000 | 0xffff0000 | 0x1f00, // on Calico, without identities in marks
	"flannel":     0xe000,
	"k3s":         0xe000 | 0x30000, // kube-router's network policies
	"kindnet":     0xe000,
}

// readProject returns a project's conflist with our entry, and its file's name.
func readProject(t *testing.T, name string) (list object, file string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(projectsDir, name, "after", "*.conflist"))
	require.NoError(t, err)
	require.Len(t, files, 1)
	return readObject(t, files[0]), filepath.Base(files[0])
}

// readObject keeps numbers as they are written.
func readObject(t *testing.T, path string) object {
	t.Helper()
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	var o object
	require.NoError(t, d.Decode(&o), path)
	return o
}

// plugins of a conflist, which may be changed in place.
func (list object) plugins() []object {
	var plugins []object
	for _, p := range list["plugins"].([]any) {
		plugins = append(plugins, p.(map[string]any))
	}
	return plugins
}

// TestProjects: what stands after is what stood before, and our entry behind the
// plugin that gives pods their addresses; the runtime's library and egress-ip take
// it; and it keeps off the mark bits of others.
func TestProjects(t *testing.T) {
	t.Parallel()
	entries, err := filepath.Glob(filepath.Join(projectsDir, "*", "entry.json"))
	require.NoError(t, err)
	require.Len(t, entries, len(projects))
	readme, err := os.ReadFile(filepath.Join(projectsDir, "README.md"))
	require.NoError(t, err)

	cmd := exec.Command(filepath.Join(bin, "egress-ip"))
	cmd.Env = []string{"CNI_COMMAND=VERSION"}
	cmd.Stdin = bytes.NewReader([]byte(`{"cniVersion": "1.0.0"}`))
	out, err := cmd.Output()
	require.NoError(t, err)
	spoken, err := new(version.PluginDecoder).Decode(out)
	require.NoError(t, err)

	for name, taken := range projects {
		t.Run(name, func(t *testing.T) {
			after, file := readProject(t, name)
			before := readObject(t, filepath.Join(projectsDir, name, "before", file))
			entry := readObject(t, filepath.Join(projectsDir, name, "entry.json"))
			require.Contains(t, string(readme), "| ["+name+"]("+name+") | `"+file+"` | "+after["cniVersion"].(string)+" |")

			plugins := before["plugins"].([]any)
			before["plugins"] = append([]any{plugins[0], map[string]any(entry)}, plugins[1:]...)
			require.Equal(t, before, after)

			data, err := json.Marshal(after)
			require.NoError(t, err)
			list, err := libcni.NetworkConfFromBytes(data)
			require.NoError(t, err)
			require.Contains(t, spoken.SupportedVersions(), list.CNIVersion)
			stdin, err := json.Marshal(merge(entry, object{"cniVersion": list.CNIVersion, "name": list.Name}))
			require.NoError(t, err)
			require.NoError(t, config.Validate(stdin))
			require.False(t, config.MissesCapability(stdin))

			mask := uint64(config.DefaultMarkMask)
			if own, ok := entry["markMask"]; ok {
				mask, err = strconv.ParseUint(own.(string), 0, 32)
				require.NoError(t, err)
			}
			require.Zero(t, uint32(mask)&taken)
		})
	}
}

// merge returns a with the keys of b on top.
func merge(a, b object) object {
	both := object{}
	for _, o := range []object{a, b} {
		for k, v := range o {
			both[k] = v
		}
	}
	return both
}
