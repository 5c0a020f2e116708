package containerd

import (
	"fmt"
	"net/netip"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// manyPods start and stop at once, every fifth of them a plain one.
const manyPods = 50

// TestManyAtOnce: pods that start at the same time each get what their annotation says, some
// of them the same addresses, and when they have stopped at the same time nothing is left.
func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	before := n.worn(t)
	pods := make([]*sandbox, manyPods)
	atOnce(t, func(i int) (err error) {
		var annotations map[string]string
		if i%5 != 0 {
			ipv4, ipv6 := addressesOf(i)
			annotations = address(ipv4 + "," + ipv6)
		}
		pods[i], err = n.tryPod(t, n.podConfig(fmt.Sprintf("pod-%d", i), annotations))
		return err
	})
	for i, s := range pods {
		if i%5 == 0 {
			s.requirePlain(t)
		} else {
			ipv4, ipv6 := addressesOf(i)
			s.requireSeen(t, ipv4, ipv6)
		}
	}
	atOnce(t, func(i int) error {
		_, err := call(t, n.runtime.StopPodSandbox, &runtime.StopPodSandboxRequest{PodSandboxId: pods[i].id})
		return err
	})
	atOnce(t, func(i int) error {
		_, err := call(t, n.runtime.RemovePodSandbox, &runtime.RemovePodSandboxRequest{PodSandboxId: pods[i].id})
		return err
	})
	n.requireNoSandbox(t)
	n.requireState(t, before)
}

// addressesOf the i-th pod; fourteen pairs for all.
func addressesOf(i int) (ipv4, ipv6 string) {
	next := func(network string) string {
		a := netip.MustParsePrefix(network).Addr()
		for range 1 + i%14 {
			a = a.Next()
		}
		return a.String()
	}
	return next(allowed4), next(allowed6)
}

// atOnce calls the function for every pod at the same time.
func atOnce(t *testing.T, do func(i int) error) {
	t.Helper()
	errs := make([]error, manyPods)
	var all sync.WaitGroup
	for i := range manyPods {
		all.Go(func() { errs[i] = do(i) })
	}
	all.Wait()
	for i, err := range errs {
		require.NoError(t, err, "pod %d", i)
	}
}
