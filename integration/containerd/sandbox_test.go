package containerd

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The annotation for addresses, alone.
func address(value string) map[string]string {
	return map[string]string{"egress-ip.cni/address": value}
}

var both = address(egress4 + "," + egress6)

// sandbox is a pod as the kubelet knows it.
type sandbox struct {
	node   *node
	config *runtime.PodSandboxConfig
	id     string
}

// podConfig is what the kubelet hands over for a pod of the namespace payments.
func (n *node) podConfig(name string, annotations map[string]string) *runtime.PodSandboxConfig {
	return &runtime.PodSandboxConfig{
		Metadata:     &runtime.PodSandboxMetadata{Name: name, Namespace: "payments", Uid: "uid-of-" + name},
		Hostname:     name,
		LogDirectory: n.path("log"),
		Annotations:  annotations,
		Linux:        &runtime.LinuxPodSandboxConfig{CgroupParent: "/" + n.cgroup},
	}
}

// runPod makes a pod's sandbox.
func (n *node) runPod(t *testing.T, name string, annotations map[string]string) *sandbox {
	t.Helper()
	s, err := n.tryPod(t, n.podConfig(name, annotations))
	require.NoError(t, err)
	return s
}

func (n *node) tryPod(t *testing.T, config *runtime.PodSandboxConfig) (*sandbox, error) {
	t.Helper()
	response, err := call(t, n.runtime.RunPodSandbox, &runtime.RunPodSandboxRequest{Config: config})
	return &sandbox{n, config, response.GetPodSandboxId()}, err
}

func (s *sandbox) stop(t *testing.T) {
	t.Helper()
	_, err := call(t, s.node.runtime.StopPodSandbox, &runtime.StopPodSandboxRequest{PodSandboxId: s.id})
	require.NoError(t, err)
}

func (s *sandbox) remove(t *testing.T) {
	t.Helper()
	_, err := call(t, s.node.runtime.RemovePodSandbox, &runtime.RemovePodSandboxRequest{PodSandboxId: s.id})
	require.NoError(t, err)
}

// state is the sandbox's state as containerd has it.
func (s *sandbox) state(t *testing.T) runtime.PodSandboxState {
	t.Helper()
	response, err := call(t, s.node.runtime.PodSandboxStatus, &runtime.PodSandboxStatusRequest{PodSandboxId: s.id})
	require.NoError(t, err)
	return response.Status.State
}

// details are what containerd says of a sandbox beside what CRI asks for.
type details struct {
	Pid         int // of the pause process, as the node sees it
	RuntimeSpec struct {
		Linux struct {
			Namespaces []struct{ Type, Path string }
		}
	}
}

func (s *sandbox) details(t *testing.T) details {
	t.Helper()
	response, err := call(t, s.node.runtime.PodSandboxStatus, &runtime.PodSandboxStatusRequest{PodSandboxId: s.id, Verbose: true})
	require.NoError(t, err)
	var d details
	require.NoError(t, json.Unmarshal([]byte(response.Info["info"]), &d), response.Info["info"])
	return d
}

// netns is where the node has the sandbox's network namespace mounted.
func (s *sandbox) netns(t *testing.T) string {
	t.Helper()
	for _, namespace := range s.details(t).RuntimeSpec.Linux.Namespaces {
		if namespace.Type == "network" {
			return namespace.Path
		}
	}
	require.Fail(t, "the sandbox has no network namespace")
	return ""
}

// killPause kills the sandbox's only process, and waits until containerd knows.
func (s *sandbox) killPause(t *testing.T) {
	t.Helper()
	s.node.run(t, "sh", "-c", fmt.Sprintf("kill -KILL %d", s.details(t).Pid))
	eventually(t, func() error {
		if state := s.state(t); state != runtime.PodSandboxState_SANDBOX_NOTREADY {
			return fmt.Errorf("the sandbox is %s", state)
		}
		return nil
	})
}

// requireSeen checks which addresses the server sees connections from the sandbox's network come from.
func (s *sandbox) requireSeen(t *testing.T, ipv4, ipv6 string) {
	t.Helper()
	s.node.requireSeen(t, s.netns(t), ipv4, ipv6)
}

// requireSeen is that of a sandbox for which containerd cannot be asked.
func (n *node) requireSeen(t *testing.T, netns, ipv4, ipv6 string) {
	t.Helper()
	for server, want := range map[string]string{nettest.ServerAskIPv4: ipv4, nettest.ServerAskIPv6: ipv6} {
		require.Equal(t, want, n.run(t, "nsenter", "--net="+netns, "--", built.pod, "ask", server))
	}
}

// requirePlain is requireSeen for a pod that egress-ip leaves alone: bridge gives it the node's addresses.
func (s *sandbox) requirePlain(t *testing.T) {
	t.Helper()
	s.requireSeen(t, nettest.PrimaryIPv4, nettest.PrimaryIPv6)
}
