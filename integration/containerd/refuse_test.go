package containerd

import (
	"errors"
	"path/filepath"
	"testing"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
)

// elsewhere is allowed, but another host of the link has it.
const elsewhere = "192.168.124.110"

// TestRefused: an annotation that cannot be honoured fails RunPodSandbox with egress-ip's
// message, which the kubelet shows as the pod's event, and leaves nothing: the addresses of
// host-local least of all.
func TestRefused(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.Router.AddAddress(t, nettest.RouterSecondLink, elsewhere+"/24")
	before := n.worn(t)
	calls := n.recordCalls(t)
	for name, tt := range map[string]struct {
		annotations map[string]string
		want        []string
	}{
		"not allowed":    {address("192.168.124.200"), []string{`egress-ip.cni/address: "192.168.124.200"`, "does not allow", "payments"}},
		"no address":     {address("enp7s0"), []string{`egress-ip.cni/address: "enp7s0"`}},
		"two of a kind":  {address("192.168.124.99,192.168.124.100"), []string{`"192.168.124.99,192.168.124.100"`}},
		"unknown":        {map[string]string{"egress-ip.cni/adress": egress4}, []string{"egress-ip.cni/adress", egress4}},
		"another link":   {map[string]string{"egress-ip.cni/link": "eth0"}, []string{`egress-ip.cni/link: "eth0"`, "does not list this link"}},
		"elsewhere":      {address(elsewhere), []string{"another host on the link has " + elsewhere}},
		"half is not ok": {address(egress4 + ",fd00:124::1"), []string{"fd00:124::1", "does not allow"}},
	} {
		_, err := n.tryPod(t, n.podConfig("refused", tt.annotations))
		require.ErrorContains(t, err, `plugin type="egress-ip" failed (add)`, name)
		for _, want := range tt.want {
			require.ErrorContains(t, err, want, name)
		}
		n.requireNoSandbox(t)
		n.requireState(t, before)
		require.Equal(t, []string{"ADD, namespace, result", "DEL, namespace, no result"}, calls())
	}
}

// broken is a plugin whose ADD fails.
const broken = `#!/bin/sh
[ "$CNI_COMMAND" = ADD ] || exit 0
echo '{"cniVersion":"1.0.0","code":999,"msg":"broken, as it should be"}'
exit 1
`

// TestPluginBehindFails: egress-ip has done its part when another plugin fails the pod's start.
func TestPluginBehindFails(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	before := n.worn(t)
	calls := n.recordCalls(t)
	nettest.WriteProgram(t, filepath.Join(n.path("bin"), "broken"), []byte(broken))
	n.configure(t, egressIP(allowed4, allowed6), object{"type": "broken"})
	eventually(t, func() error { // until containerd has seen the file
		s, err := n.tryPod(t, n.podConfig("shop", both))
		if err != nil {
			require.ErrorContains(t, err, "broken, as it should be")
			return nil
		}
		s.remove(t)
		calls()
		return errors.New("containerd does not run the plugin yet")
	})
	require.Equal(t, []string{"ADD, namespace, result", "DEL, namespace, no result"}, calls())
	n.requireNoSandbox(t)
	n.requireState(t, before)
}

// TestConfigurationChanges: containerd takes a changed conflist without a restart, and the
// kubelet's next try is as it says.
func TestConfigurationChanges(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	config := n.podConfig("shop", both)
	n.configure(t, egressIP("192.168.124.96/28"))
	eventually(t, func() error { // until containerd has seen the file
		s, err := n.tryPod(t, config)
		if err != nil {
			require.ErrorContains(t, err, egress6)
			require.ErrorContains(t, err, "does not allow")
			return nil
		}
		s.remove(t)
		return errors.New("containerd still allows " + egress6)
	})
	n.configure(t, egressIP(allowed4, allowed6))
	var s *sandbox
	eventually(t, func() (err error) {
		s, err = n.tryPod(t, config)
		return err
	})
	s.requireSeen(t, egress4, egress6)
	s.stop(t)
	s.remove(t)
}
