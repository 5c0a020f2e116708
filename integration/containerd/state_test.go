package containerd

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// look prints all of a node that a pod may leave something in: rules, routes of every
// table, links and their addresses, the nftables ruleset without its counters, conntrack,
// the sysctl, the records and names of egress-ip, what CNI and host-local keep, network
// namespaces, mounts, cgroups, and shims.
const look = `
for family in -4 -6; do ip -d $family rule; ip -d $family route show table all; done
ip -br address | sed -E 's/ (UP|DOWN) / /'
nft -s list ruleset
for family in ipv4 ipv6; do conntrack -L -f $family 2>/dev/null | grep -oE 'dst=(192.168.124.9|fd00:124::6)[^ ]*' || true; done
grep . /proc/sys/net/ipv4/conf/[ae]*/src_valid_mark
[ ! -e /etc/iproute2/rt_tables.d ] || find /etc/iproute2/rt_tables.d
find /run /var/lib -type f -o -type s -o -type d -path '*egress*'
cut -d ' ' -f 2 /proc/mounts | grep ^/run
find /sys/fs/cgroup -type d -path "*/$0/*"
grep -hx 'containerd-shim' /proc/[0-9]*/comm || true
`

// state is what stands on the node, line by line, in no order that means anything, and
// without whether the bridge has a port: the kernel says so a second late. What goes while one
// looks is an error.
func (n *node) state() ([]string, error) {
	out, err := n.try("sh", "-ec", look, n.cgroup)
	lines := strings.Split(strings.ReplaceAll(out, " linkdown", ""), "\n")
	slices.Sort(lines)
	return lines, err
}

// worn is the state of a node that has had a plain pod with a host port: bridge, host-local,
// portmap and containerd have made what they make once. It waits until nothing else is left of that pod: containerd
// cleans up behind its answers.
func (n *node) worn(t *testing.T) []string {
	t.Helper()
	config := n.podConfig("first", nil)
	config.PortMappings = hostPort
	s, err := n.tryPod(t, config)
	require.NoError(t, err)
	s.requirePlain(t)
	s.stop(t)
	s.remove(t)
	var state []string
	eventually(t, func() (err error) {
		if state, err = n.state(); err != nil {
			return err
		}
		for _, passing := range []string{"/run/netns/cni-", "containerd-shim", "/sandboxes/"} {
			if i := slices.IndexFunc(state, func(line string) bool { return strings.Contains(line, passing) }); i >= 0 {
				return errors.New("of a plain pod is left: " + state[i])
			}
		}
		return nil
	})
	return state
}

// requireState waits until the node's state is that one, but for lines with one of the exceptions in them.
func (n *node) requireState(t *testing.T, want []string, except ...string) {
	t.Helper()
	want = without(want, except)
	eventually(t, func() error {
		have, err := n.state()
		if err != nil {
			return err
		}
		have = without(have, except)
		if slices.Equal(have, want) {
			return nil
		}
		return errors.New("more than before:\n" + less(have, want) + "\nless:\n" + less(want, have))
	})
}

// without is the lines that have none of these texts in them.
func without(lines, texts []string) []string {
	return slices.DeleteFunc(slices.Clone(lines), func(line string) bool {
		return slices.ContainsFunc(texts, func(text string) bool { return strings.Contains(line, text) })
	})
}

// less is the lines that b does not have as often as a.
func less(a, b []string) string {
	b = slices.Clone(b)
	var only []string
	for _, line := range a {
		if i := slices.Index(b, line); i >= 0 {
			b = slices.Delete(b, i, i+1)
		} else {
			only = append(only, line)
		}
	}
	return strings.Join(only, "\n")
}

func (n *node) requireNoSandbox(t *testing.T) {
	t.Helper()
	list, err := call(t, n.runtime.ListPodSandbox, &runtime.ListPodSandboxRequest{})
	require.NoError(t, err)
	require.Empty(t, list.Items)
}
