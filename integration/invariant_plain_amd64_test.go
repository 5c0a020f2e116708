package integration

import (
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// itsOwn are system calls without which a plugin has no request, no namespace, or nowhere to write its result.
var itsOwn = regexp.MustCompile(`standard stream|memfd|/ns/net`)

// TestInvariant4PlainPodsAreNotAffected attacks: whatever the kernel refuses egress-ip, at whichever system call, a plain pod's ADD,
// CHECK and STATUS succeed, and ADD hands on the result; alone on the node, and beside a pod that has egress, which keeps it.
func TestInvariant4PlainPodsAreNotAffected(t *testing.T) {
	t.Parallel()
	for name, live := range map[string]bool{"alone": false, "beside an annotated pod": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			seed := newSeed(t)
			c := newNode(t)
			annotated := c.newDirect(t, "annotated", "10.244.1.2", "fd00:10:244::2", egressIP(nil))
			if live {
				annotated.add(t, both)
			}
			d := c.newDirect(t, "plain", "10.244.1.3", "fd00:10:244::3", egressIP(nil))
			stdin := request(t, d.entry, nil, d.addresses...)
			want, err := d.call(t, "ADD", nil)
			require.NoError(t, err)
			for _, command := range []string{"ADD", "CHECK", "STATUS"} {
				plugin := pluginCommand(call{
					command: command, containerID: d.id, netns: d.Path(), stdin: stdin,
					args: "K8S_POD_NAMESPACE=payments;K8S_POD_NAME=pod",
				})
				refused, failed := 0, 0
				for at := 1; ; at++ {
					if !live { // so that there is all to do
						_, exit := c.quietly(t, "cleanup")
						require.Zero(t, exit)
					}
					result := strike{at, func(call uint64) unix.Errno {
						all := errorsOf(call)
						return all[(seed+uint64(at))%uint64(len(all))]
					}}.run(t, c.Node, plugin, stdin)
					if result.call == "" {
						require.True(t, result.succeeded(), "%s", result)
						break
					}
					refused++
					if !result.succeeded() {
						failed++
						require.Regexp(t, itsOwn, result.call, "%s: %s", command, result)
					} else if command == "ADD" {
						require.Equal(t, want, result.stdout)
					}
				}
				t.Logf("%s: refused %d system calls, %d of them its own", command, refused, failed)
				require.Greater(t, refused, failed)
			}
			if live {
				annotated.requireSeen(t, egress4, egress6)
			}
		})
	}
}
