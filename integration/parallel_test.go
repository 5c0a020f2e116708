package integration

import (
	"fmt"
	"testing"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
)

// processes is how many calls a busy runtime has under way.
const processes = 16

// TestParallel: 100 pods come at once and go at once. None fails, everything stands
// in between, and nothing after that.
func TestParallel(t *testing.T) {
	t.Parallel()
	c := newNode(t)
	sandbox := nettest.New(t, "sandbox").Path()
	before := c.state(t)
	const pods = 100
	require.Empty(t, each(0, pods, processes, func(n int) error {
		_, err := c.plugin(numbered(t, "ADD", sandbox, n, 4, 6))
		return err
	}))
	requirePerPod(t, c.state(t), pods)
	require.Len(t, c.attachments(t), pods)
	require.Empty(t, each(0, pods, processes, func(n int) error {
		_, err := c.plugin(numbered(t, "CHECK", sandbox, n, 4, 6))
		return err
	}))
	require.Empty(t, each(0, pods, processes, func(n int) error {
		_, err := c.plugin(numbered(t, "DEL", "", n, 4, 6))
		return err
	}))
	require.Equal(t, before, c.state(t))
}

// TestInterleaved: ADDs of some pods, DELs of others, plain pods and a GC, all at
// the same time; the address of a pod that has gone is the next one's at once.
func TestInterleaved(t *testing.T) {
	t.Parallel()
	c := newNode(t)
	sandbox := nettest.New(t, "sandbox").Path()
	live := c.newDirect(t, "live", "10.244.1.2", "fd00:10:244::2", noProbe)
	none := c.state(t)
	live.add(t, both)
	before := c.state(t)
	asks := keepAsking(t, c, live.Namespace, egress4, egress6)
	require.Empty(t, each(0, processes, processes, func(worker int) error {
		for i := range 8 {
			id := fmt.Sprintf("worker-%d-%d", worker, i)
			add := numbered(t, "ADD", sandbox, worker, 4, 6)
			add.containerID = id
			if i%4 == 3 { // a plain pod
				add.stdin = request(t, noProbe, nil, fmt.Sprintf("10.244.16.%d", 1+worker))
			}
			if _, err := c.plugin(add); err != nil {
				return err
			}
			check := add
			check.command = "CHECK"
			if _, err := c.plugin(check); err != nil {
				return err
			}
			switch i % 4 {
			case 0, 3:
				if err := c.bareDel(id); err != nil {
					return err
				}
			case 1: // the DEL comes when the next pod has the address
				defer func() { _ = c.bareDel(id) }()
			case 2: // and here twice
				for range 2 {
					if err := c.bareDel(id); err != nil {
						return err
					}
				}
			}
			if _, err := c.plugin(call{command: "GC", stdin: gcStdin(t, "third", object{"cni.dev/valid-attachments": []object{}})}); err != nil {
				return err
			}
		}
		return nil
	}))
	asks.requireAll(t)
	require.Equal(t, before, c.state(t))
	live.del(t)
	require.Equal(t, none, c.state(t))
}
