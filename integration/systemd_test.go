package integration

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/coreos/go-systemd/v22/unit"
	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

const (
	unitFile      = "../conflist-examples/systemd/egress-ip.service"
	unitExecStart = "/opt/cni/bin/egress-ip resync --watch"
)

// unitValues are the values of the unit file by section and key, "Service.Type" say.
func unitValues(t *testing.T) map[string][]string {
	t.Helper()
	data, err := os.ReadFile(unitFile)
	require.NoError(t, err)
	sections, err := unit.DeserializeSections(bytes.NewReader(data))
	require.NoError(t, err)
	values := map[string][]string{}
	for _, s := range sections {
		for _, e := range s.Entries {
			key := s.Section + "." + e.Name
			require.NotContains(t, values, key, "twice")
			values[key] = strings.Fields(e.Value)
		}
	}
	return values
}

// TestUnit: the unit file says what the program relies on, and nothing that systemd
// does not know.
func TestUnit(t *testing.T) {
	t.Parallel()
	values := unitValues(t)
	for key, want := range map[string]string{
		"Service.Type":      "notify",
		"Service.ExecStart": unitExecStart,
		"Service.Restart":   "always",
		// A command line does not become right by itself; whatever else ends it may.
		"Service.RestartPreventExitStatus": "2",
		"Service.WatchdogSec":              "60",
		"Install.WantedBy":                 "multi-user.target",
		"Service.ProtectSystem":            "strict",
	} {
		require.Equal(t, want, strings.Join(values[key], " "), key)
	}
	require.Subset(t, values["Unit.After"], []string{"nftables.service", "firewalld.service"})
	require.Subset(t, values["Unit.Before"], []string{"kubelet.service", "containerd.service", "crio.service"})
	require.Contains(t, values["Service.ReadWritePaths"], "/run")
	for _, taken := range []string{"PrivateNetwork", "NetworkNamespacePath", "ProtectKernelTunables", "ProcSubset", "IPAddressDeny"} {
		require.NotContains(t, values, "Service."+taken)
	}

	// Wants the program to be there.
	here := filepath.Join(t.TempDir(), "egress-ip.service")
	data, err := os.ReadFile(unitFile)
	require.NoError(t, err)
	started := "ExecStart=" + filepath.Join(bin, "egress-ip") + " resync --watch"
	data = bytes.Replace(data, []byte("ExecStart="+unitExecStart), []byte(started), 1)
	require.NoError(t, os.WriteFile(here, data, 0o600))
	if analyze, err := exec.LookPath("systemd-analyze"); err == nil {
		out, err := exec.Command(analyze, "verify", here).CombinedOutput()
		require.NoError(t, err, string(out))
		require.NotContains(t, string(out), "egress-ip", string(out)) // of other units it may say what it likes
	}
}

// TestUnitCapabilities: the unit's capabilities are enough for all that egress-ip
// does to the node, announcements and the sysctl too, and with one less they are not.
func TestUnitCapabilities(t *testing.T) {
	t.Parallel()
	numbers := map[string]uintptr{"CAP_NET_ADMIN": unix.CAP_NET_ADMIN, "CAP_NET_RAW": unix.CAP_NET_RAW}
	var all []uintptr
	for _, name := range unitValues(t)["Service.CapabilityBoundingSet"] {
		require.Contains(t, numbers, name)
		all = append(all, numbers[name])
	}
	try := func(capabilities []uintptr) error {
		c := newNode(t)
		c.Node.Sysctl(t, "net.ipv4.conf.all.rp_filter", "1")
		d := c.newDirect(t, "pod", "10.244.1.5", "fd00:10:244::5", egressIP(nil))
		add := pluginCommand(call{
			command: "ADD", containerID: d.id, netns: d.Path(),
			stdin: request(t, d.entry, both, d.addresses...), args: "K8S_POD_NAMESPACE=payments",
		})
		startWith(t, c.Node, capabilities, add)
		err := add.Wait()
		if err == nil {
			d.requireSeen(t, egress4, egress6)
			require.ElementsMatch(t, []string{nettest.PrimaryLink, nettest.SecondLink}, c.srcValidMark(t))
		}
		return err
	}
	require.NoError(t, try(all))
	for i := range all {
		require.Error(t, try(slices.Delete(slices.Clone(all), i, i+1)))
	}
}

// startWith starts a command as root with no other capabilities than these.
func startWith(t *testing.T, n *nettest.Namespace, capabilities []uintptr, cmd *exec.Cmd) {
	t.Helper()
	n.Do(t, func() {
		runtime.LockOSThread() // and never unlocked, so that the thread ends with its capabilities
		for c := uintptr(0); c <= unix.CAP_LAST_CAP; c++ {
			if !slices.Contains(capabilities, c) {
				require.NoError(t, unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0))
			}
		}
		require.NoError(t, cmd.Start())
	})
	t.Cleanup(func() { _ = cmd.Process.Kill() })
}
