package integration

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
)

const namesFile = "/etc/iproute2/rt_tables.d/egress-ip.conf"

// TestNames: where a node has an /etc of its own, iproute2 there knows links' tables
// by name from the first ADD on, and resync and cleanup keep it so.
func TestNames(t *testing.T) {
	t.Parallel()
	c := newCluster(t, nettest.LabOptions{}, "1.0.0")
	d := c.newDirect(t, "pod", "10.244.1.5", "fd00:10:244::5", egressIP(nil))
	script := func(lines ...string) string {
		return "set -e; mount --make-rprivate /; mount -t tmpfs none /etc/iproute2/rt_tables.d\n" + strings.Join(lines, "\n")
	}
	call := pluginCommand(call{
		command: "ADD", containerID: d.id, netns: d.Path(), args: "K8S_POD_NAMESPACE=payments;K8S_POD_NAME=pod",
	})
	cmd := exec.Command("unshare", "--mount", "bash", "-c", script(
		"egress-ip() { env -u CNI_COMMAND -u CNI_CONTAINERID "+call.Path+` "$@"; }`,
		call.Path+" >/dev/null",
		"cat "+namesFile, "ip rule", "ip -6 rule", "ip route show table egress-enp7s0",
		"echo 7 lost >"+namesFile, "egress-ip resync", "cat "+namesFile,
		"rm "+namesFile, "egress-ip resync", "cat "+namesFile, "egress-ip resync",
		"CNI_COMMAND=DEL "+call.Path, "ls -A /etc/iproute2/rt_tables.d",
	))
	cmd.Env = append(call.Env, "PATH=/usr/sbin:/usr/bin:/sbin:/bin")
	cmd.Stdin = strings.NewReader(request(t, egressIP(nil), both, d.addresses...))
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	require.NoError(t, c.Node.Run(cmd), &out)
	require.Regexp(t, `(?s)^# Written by egress-ip for its links; do not edit.
1003 egress-enp7s0
.*6000:	from 10.244.1.5 lookup egress-enp7s0.*6000:	from fd00:10:244::5 lookup egress-enp7s0.*unreachable default proto kernel metric 4278198272.*
named the routing tables for iproute2
# Written by egress-ip for its links; do not edit.
1003 egress-enp7s0
named the routing tables for iproute2
# Written by egress-ip for its links; do not edit.
1003 egress-enp7s0
nothing to do
$`, out.String())
}
