//go:build soak

package integration

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/egress-ip/egress-ip/integration/ovnkube"
	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
)

// soakSystem gives pods their egress.
type soakSystem struct {
	name string
	// ours is egress-ip: it alone has calls that can be killed, a watcher, and another version.
	ours    bool
	patched bool // OVN-Kubernetes: the link's table as since 4.15.10
	late    bool // a pod runs for 1 to 2 s before its rules are there
}

var soakSystems = []soakSystem{
	{name: "egress-ip", ours: true},
	{name: "OVN-Kubernetes' source rules, table of 4.15.9"},
	{name: "OVN-Kubernetes' source rules, table of 4.15.10", patched: true},
	{name: "Cilium's start of a pod, 1 to 2 s without its policy (imitated)", patched: true, late: true},
}

// add is a pod's ADD.
func (s *soak) add(ctx context.Context, t *testing.T, f *flooder, r *rand.Rand) error {
	if s.system.ours {
		return s.call(t, f, "ADD", r)
	}
	// With these systems nothing keeps a pod from starting.
	if !s.system.late {
		s.scheme(f, true)
		return nil
	}
	// The pod runs, and what its packets need comes later.
	after := time.Second + time.Duration(r.Int64N(int64(time.Second)))
	s.late.Go(func() {
		if pause(ctx, after) && !f.ended.Load() {
			s.scheme(f, true)
		}
	})
	return nil
}

// del is a pod's DEL.
func (s *soak) del(t *testing.T, f *flooder, r *rand.Rand) error {
	if s.system.ours {
		return s.call(t, f, "DEL", r)
	}
	s.scheme(f, false)
	return nil
}

// killedOf is one in so many calls that is killed.
const killedOf = 6

// call calls egress-ip, and sometimes kills the call and repeats it as a runtime does.
func (s *soak) call(t *testing.T, f *flooder, command string, r *rand.Rand) error {
	call := call{
		command: command, containerID: f.id, netns: f.Path(),
		stdin: request(t, f.entry, f.annotation(), f.addresses...), args: "K8S_POD_NAMESPACE=payments;K8S_POD_NAME=" + f.id,
	}
	s.calls.RLock()
	defer s.calls.RUnlock()
	if r.IntN(killedOf) == 0 {
		after := time.Duration(r.Int64N(int64(s.callTime)))
		s.diary.write("%s: %s, to be killed after %v", f, command, after)
		if s.kill(t, call, after) {
			return nil
		}
		s.kills.Add(1)
		if command == "ADD" { // a runtime gives up, and makes another sandbox
			return errKilled
		}
		s.diary.write("%s: DEL again", f)
	}
	_, err := s.plugin(call)
	return err
}

// annotation is the pod's; nil for a plain one.
func (f *flooder) annotation() annotations {
	var all []string
	for _, egress := range f.egress {
		if egress.IsValid() {
			all = append(all, egress.String())
		}
	}
	if len(all) == 0 {
		return nil
	}
	return address(strings.Join(all, ","))
}

// ovnLinks is the egress link as the scheme needs it, in both families.
func (s *soak) ovnLinks() [2]ovnkube.Link {
	links := [2]ovnkube.Link{
		{Name: nettest.SecondLink, Table: s.table, Network: "192.168.124.0/24"},
		{Name: nettest.SecondLink, Table: s.table, Network: "fd00:124::/64"},
	}
	if s.system.patched {
		links[0].Gateway, links[1].Gateway = nettest.SecondGatewayIPv4, nettest.SecondGatewayIPv6
	}
	return links
}

var ipFlags, iptablesRestore = [2]string{"-4", "-6"}, [2]string{"iptables-restore", "ip6tables-restore"}

// scheme writes a pod's rules, or takes them away.
func (s *soak) scheme(f *flooder, add bool) {
	s.schemes.Lock()
	defer s.schemes.Unlock()
	rule, translation := "rule del ", "-D "
	if delete(s.attached, f); add {
		rule, translation = "rule add ", "-A "
		s.attached[f] = true
	}
	if err := s.writeRules(f, rule, translation); err != nil {
		s.diary.write("%s: %v", f, err) // the disturbance has taken away what it needs
	}
}

func (s *soak) writeRules(f *flooder, rule, translation string) error {
	var errs []error
	for family, link := range s.ovnLinks() {
		if egress := f.egress[family]; egress.IsValid() {
			pod := netip.MustParseAddr(f.addresses[family])
			_, err := s.input(rule+link.Rule(pod), "ip", ipFlags[family], "-batch", "-")
			errs = append(errs, err)
			_, err = s.input("*nat\n"+translation+link.Translation(pod, egress)+"COMMIT\n", iptablesRestore[family], "--noflush")
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// rebuild writes all of the scheme, whatever is left of it.
func (s *soak) rebuild(t *testing.T) {
	t.Helper()
	s.schemes.Lock()
	defer s.schemes.Unlock()
	for family, link := range s.ovnLinks() {
		for _, egress := range soakEgress[family] {
			_, _ = s.input("", "ip", "address", "add", netip.PrefixFrom(egress, egress.BitLen()).String(), "dev", nettest.SecondLink) // it may be there
		}
		_, _ = s.input("", "sh", "-c", fmt.Sprintf("while ip %s rule del priority 6000; do :; done; ip %s route flush table %d", ipFlags[family], ipFlags[family], link.Table))
		_, err := s.input(link.Routes(), "ip", ipFlags[family], "-batch", "-")
		require.NoError(t, err)
		_, err = s.input(strings.Replace(ovnkube.NewChain, "*nat\n", "*nat\n:POSTROUTING ACCEPT [0:0]\n", 1)+"COMMIT\n", iptablesRestore[family])
		require.NoError(t, err)
	}
	for f := range s.attached {
		require.NoError(t, s.writeRules(f, "rule add ", "-A "))
	}
	_, _ = s.input("", "conntrack", "-F") // what was opened untranslated stays so
}

// input runs a command on the node.
func (s *soak) input(stdin, name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	var out strings.Builder
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &out
	if err := s.Node.Run(cmd); err != nil {
		return out.String(), fmt.Errorf("%s: %w: %s", cmd, err, &out)
	}
	return out.String(), nil
}
