package integration

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

const manifests = "../conflist-examples/kubernetes/"

// daemonSet is what these tests need of one.
type daemonSet struct {
	Spec struct {
		Template struct {
			Spec struct {
				Containers []container
				Volumes    []struct {
					Name     string
					HostPath struct{ Path, Type string } `yaml:"hostPath"`
				}
			}
		}
	}
}

// container is one of its pod's.
type container struct {
	Name            string
	Args            []string
	SecurityContext struct {
		AllowPrivilegeEscalation *bool `yaml:"allowPrivilegeEscalation"`
		ReadOnlyRootFilesystem   *bool `yaml:"readOnlyRootFilesystem"`
		Capabilities             struct{ Add, Drop []string }
	} `yaml:"securityContext"`
	VolumeMounts []struct {
		Name      string
		MountPath string `yaml:"mountPath"`
		ReadOnly  bool   `yaml:"readOnly"`
	} `yaml:"volumeMounts"`
}

// readDaemonSet reads the manifest; that it is strictly Kubernetes' is another test's.
func readDaemonSet(t *testing.T) daemonSet {
	t.Helper()
	data, err := os.ReadFile(manifests + "daemonset.yaml")
	require.NoError(t, err)
	for document := range bytes.SplitSeq(data, []byte("\n---\n")) {
		var kind struct{ Kind string }
		require.NoError(t, yaml.Unmarshal(document, &kind))
		if kind.Kind == "DaemonSet" {
			var d daemonSet
			require.NoError(t, yaml.Unmarshal(document, &d))
			return d
		}
	}
	require.FailNow(t, "no DaemonSet")
	return daemonSet{}
}

// named returns the container of this name.
func (d daemonSet) named(t *testing.T, name string) container {
	t.Helper()
	i := slices.IndexFunc(d.Spec.Template.Spec.Containers, func(c container) bool { return c.Name == name })
	require.GreaterOrEqual(t, i, 0, name)
	return d.Spec.Template.Spec.Containers[i]
}

// capabilities are those that are left when all are dropped, by their kernel names.
func (c container) capabilities(t *testing.T) []string {
	t.Helper()
	require.Equal(t, []string{"ALL"}, c.SecurityContext.Capabilities.Drop)
	names := []string{}
	for _, name := range c.SecurityContext.Capabilities.Add {
		names = append(names, "CAP_"+name)
	}
	return names
}

// bundle is the container as a runtime hands it to runc: root, in the network namespace
// at this path, with what every container has of /proc, /dev and /sys, and of the node
// what the DaemonSet has mounted; instead of a volume named in standIns, that folder.
func (d daemonSet) bundle(t *testing.T, c container, network string, standIns map[string]string) object {
	t.Helper()
	mounts := []object{
		{"destination": "/proc", "type": "proc", "source": "proc"},
		{"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": []string{"nosuid", "mode=755"}},
		{"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": []string{"nosuid", "noexec", "nodev", "ro"}},
	}
	for _, m := range c.VolumeMounts {
		for _, v := range d.Spec.Template.Spec.Volumes {
			if v.Name != m.Name {
				continue
			}
			source := v.HostPath.Path
			if standIn, ok := standIns[m.Name]; ok {
				source = standIn
			}
			require.NotEmpty(t, source, m.Name)
			mode := "rw"
			if m.ReadOnly {
				mode = "ro"
			}
			mounts = append(mounts, object{
				"destination": m.MountPath, "source": source, "type": "bind", "options": []string{"rbind", "rprivate", mode},
			})
		}
	}
	capabilities := c.capabilities(t)
	require.NotNil(t, c.SecurityContext.AllowPrivilegeEscalation)
	require.NotNil(t, c.SecurityContext.ReadOnlyRootFilesystem)
	return object{
		"ociVersion": "1.0.2",
		"process": object{
			"user": object{"uid": 0, "gid": 0}, "cwd": "/", "args": append([]string{"/egress-ip"}, c.Args...),
			"capabilities":    object{"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
			"noNewPrivileges": !*c.SecurityContext.AllowPrivilegeEscalation,
		},
		"root":   object{"path": "rootfs", "readonly": *c.SecurityContext.ReadOnlyRootFilesystem},
		"mounts": mounts,
		"linux": object{
			"namespaces":    []object{{"type": "pid"}, {"type": "ipc"}, {"type": "mount"}, {"type": "network", "path": network}},
			"maskedPaths":   []string{"/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/scsi", "/sys/firmware"},
			"readonlyPaths": []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
		},
	}
}

var containers atomic.Int64

// start runs a bundle with runc and returns once it has logged this. Stop sends it
// SIGTERM, as a kubelet does, and waits for an orderly end; the test's end kills it.
func start(t *testing.T, bundle object, ready string) (stop func()) {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(dir, "rootfs"), 0o755))
	require.NoError(t, exec.Command("cp", filepath.Join(bin, "egress-ip"), filepath.Join(dir, "rootfs")).Run())
	config, err := json.Marshal(bundle)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "config.json"), config, 0o600))

	state := filepath.Join(dir, "state")
	id := fmt.Sprintf("egress-ip-test-%d-%d", os.Getpid(), containers.Add(1))
	run := exec.Command("runc", "--root", state, "run", "--bundle", dir, id)
	stderr, err := os.Create(filepath.Join(dir, "stderr"))
	require.NoError(t, err)
	defer stderr.Close()
	run.Stderr = stderr
	require.NoError(t, run.Start())
	logged := func() string {
		data, err := os.ReadFile(stderr.Name())
		require.NoError(t, err)
		return string(data)
	}
	t.Cleanup(func() {
		out, err := exec.Command("runc", "--root", state, "delete", "--force", id).CombinedOutput()
		require.NoError(t, err, string(out))
		_ = run.Wait() // it was killed, or stopped before
		if t.Failed() {
			t.Log(logged())
		}
	})
	require.Eventually(t, func() bool { return strings.Contains(logged(), ready) }, waitFor, tick)
	return func() {
		t.Helper()
		out, err := exec.Command("runc", "--root", state, "kill", id, "TERM").CombinedOutput()
		require.NoError(t, err, string(out))
		require.NoError(t, run.Wait())
	}
}
