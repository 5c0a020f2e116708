package containerd

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

const (
	socket      = "/run/containerd/containerd.sock"
	snapshotter = "native" // works on every file system, an overlay of overlays included
)

// configuration of containerd. Its root is on the disk; the rest is in the node's /run and
// gone when the node is switched off, as /run is. Raising an OOM score needs no privilege,
// lowering it CAP_SYS_RESOURCE, which not every machine has: restrict_oom_score_adj.
const configuration = `version = 2
root = "%[1]s/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.internal.v1.opt"]
[grpc]
  address = "` + socket + `"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "` + podImage + `"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "%[1]s/bin"
    conf_dir = "%[1]s/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "` + snapshotter + `"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
`

// process is containerd while it runs.
type process struct {
	*exec.Cmd
	pid string // as the node sees it
}

// startContainerd starts containerd and returns when it answers.
func (n *node) startContainerd(t *testing.T) {
	t.Helper()
	config := n.path("config.toml")
	require.NoError(t, os.WriteFile(config, fmt.Appendf(nil, configuration, n.disk), 0o600))
	log, err := os.OpenFile(n.path("containerd.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	require.NoError(t, err)
	defer log.Close()
	// nsenter waits for what it starts, so the shell's process ID is the one to signal.
	cmd := n.command("sh", "-c", `echo $$ >/run/containerd.pid; exec containerd --config "$0"`, config)
	cmd.Stdout, cmd.Stderr = log, log
	require.NoError(t, cmd.Start())
	n.containerd = &process{Cmd: cmd}
	n.connect(t)
	n.containerd.pid = strings.TrimSpace(n.run(t, "cat", "/run/containerd.pid"))
	t.Cleanup(func() {
		if t.Failed() {
			log, _ := os.ReadFile(n.path("containerd.log"))
			t.Logf("containerd:\n%s", warnings(string(log)))
		}
	})
}

// warnings are the lines of containerd's log of which a person would want to know.
func warnings(log string) string {
	var b strings.Builder
	for line := range strings.Lines(log) {
		if !strings.Contains(line, "level=info") && !strings.Contains(line, "level=debug") {
			b.WriteString(line)
		}
	}
	return b.String()
}

// endContainerd ends containerd with the signal. Pods go on.
func (n *node) endContainerd(t *testing.T, signal syscall.Signal) {
	t.Helper()
	n.run(t, "sh", "-c", fmt.Sprintf("kill -%d %s", signal, n.containerd.pid))
	_ = n.containerd.Wait() // the error says how it ended
	n.close()
}
