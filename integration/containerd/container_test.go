package containerd

import (
	"testing"

	"github.com/stretchr/testify/require"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// container is one in a sandbox; it ends with the sandbox.
type container struct {
	node *node
	id   string
}

// startContainer starts a container from the pods' image, with these arguments of its program.
func (s *sandbox) startContainer(t *testing.T, args ...string) container {
	t.Helper()
	created, err := call(t, s.node.runtime.CreateContainer, &runtime.CreateContainerRequest{
		PodSandboxId:  s.id,
		SandboxConfig: s.config,
		Config: &runtime.ContainerConfig{
			Metadata: &runtime.ContainerMetadata{Name: "app"},
			Image:    &runtime.ImageSpec{Image: podImage},
			Args:     args,
			LogPath:  "app.log",
			Linux:    &runtime.LinuxContainerConfig{},
		},
	})
	require.NoError(t, err)
	_, err = call(t, s.node.runtime.StartContainer, &runtime.StartContainerRequest{ContainerId: created.ContainerId})
	require.NoError(t, err)
	return container{s.node, created.ContainerId}
}

// run runs a program in the container and returns what it prints.
func (c container) run(t *testing.T, command ...string) string {
	t.Helper()
	response, err := call(t, c.node.runtime.ExecSync, &runtime.ExecSyncRequest{ContainerId: c.id, Cmd: command, Timeout: 10})
	require.NoError(t, err)
	require.Zero(t, response.ExitCode, "%s", response.Stderr)
	return string(response.Stdout)
}
