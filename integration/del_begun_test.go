package integration

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
)

// TestDelBegun: the DEL of a pod was killed as soon as it was recorded that it had begun. Whatever comes next
// removes what is left of the pod, and nothing of a pod that shares its egress addresses. Until then status says it.
func TestDelBegun(t *testing.T) {
	t.Parallel()
	again := func(t *testing.T, c *cluster, dead *direct, annotations annotations, ipv4, ipv6 string) {
		next := &direct{dead.Pod, c, "next", noProbe, dead.addresses}
		next.add(t, annotations)
		next.requireSeen(t, ipv4, ipv6)
		next.del(t)
	}
	for name, next := range map[string]func(t *testing.T, c *cluster, dead *direct){
		"resync": func(t *testing.T, c *cluster, dead *direct) {
			require.Contains(t, c.resync(t), "finished the DEL of dead")
		},
		"DEL": func(t *testing.T, _ *cluster, dead *direct) { dead.del(t) },
		"GC": func(t *testing.T, c *cluster, _ *direct) {
			_, err := c.plugin(call{command: "GC", stdin: gcStdin(t, "net", object{
				"cni.dev/valid-attachments": []object{{"containerID": "live", "ifname": "eth0"}},
			})})
			require.NoError(t, err)
		},
		"ADD of a plain pod with its address": func(t *testing.T, c *cluster, dead *direct) {
			again(t, c, dead, nil, nettest.PrimaryIPv4, nettest.PrimaryIPv6)
		},
		"ADD of a pod with its address": func(t *testing.T, c *cluster, dead *direct) { again(t, c, dead, others, other4, other6) },
		"its own ADD": func(t *testing.T, _ *cluster, dead *direct) {
			dead.add(t, both)
			dead.requireSeen(t, egress4, egress6)
			dead.del(t)
		},
	} {
		for with, live := range map[string]bool{"beside a live pod": true, "the last pod": false} {
			t.Run(name+", "+with, func(t *testing.T) {
				t.Parallel()
				c := newNode(t)
				c.masquerade(t)
				sharing := c.newDirect(t, "live", "10.244.1.7", "fd00:10:244::7", noProbe)
				if live {
					sharing.add(t, both)
				}
				dead := c.newDirect(t, "dead", "10.244.1.5", "fd00:10:244::5", noProbe)
				before := c.state(t)
				dead.add(t, both)
				file := filepath.Join(c.recordDir(t), "attachments", "dead:eth0.json")
				require.NoError(t, os.Rename(file, file+".ending"))
				out, _ := c.status(t, 1)
				require.Contains(t, out, "dead")
				if live {
					sharing.requireSeen(t, egress4, egress6)
				}
				next(t, c, dead)
				require.Equal(t, before, c.state(t))
				if live {
					sharing.requireSeen(t, egress4, egress6)
				} else {
					c.requireNoAttachment(t)
				}
				c.status(t, 0)
			})
		}
	}
}
