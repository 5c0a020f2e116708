package integration

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
)

// TestInvariant5ReleasedRecord: pods that a released version has attached keep their egress, are
// checked and deleted, one without touching another, whatever has become of the index that
// this version kept beside their records.
func TestInvariant5ReleasedRecord(t *testing.T) {
	t.Parallel()
	inRecord := func(script string) func(*testing.T, *cluster) {
		return func(t *testing.T, c *cluster) {
			c.command(t, "sh", "-ec", "cd "+c.recordDir(t)+"; "+script)
		}
	}
	for name, do := range map[string]func(*testing.T, *cluster){
		"as it was":               inRecord(""),
		"without an index":        inRecord("rm -r shared pods"),
		"rules named differently": inRecord(`for d in shared/rule-*; do mv "$d" "$d"x; done`),
		"addresses of others":     inRecord(`for p in pods/*; do ln -sfn ../attachments/far:eth0.json "$p"; done`),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, nettest.LabOptions{SecondDefault: true, ThirdLink: true}, "1.0.0")
			more := object{"counters": true}
			first := c.newTenant(t, more, "first", "10.244.1.5", "fd00:10:244::5", egress4, egress6)
			sharing := c.newTenant(t, more, "sharing", "10.244.1.6", "fd00:10:244::6", egress4, egress6)
			far := c.newTenant(t, more, "far", "10.244.1.9", "", third4, "")
			require.NoError(t, os.MkdirAll(c.recordDir(t), 0o700))
			unpack := []string{"-xzf", "../pkg/record/testdata/04f183a.tar.gz", "-C", c.recordDir(t)}
			c.command(t, "tar", unpack...)
			c.resync(t) // the kernel, as that version had it
			c.requireNothingToDo(t)
			out, _ := c.status(t, 0)
			require.Contains(t, out, "3 pods on 2 links")
			c.command(t, "tar", append(unpack, "./shared", "./pods")...)
			do(t, c)
			all := &stricken{cluster: c, tenants: []*tenant{first, sharing, far}}
			all.requireEgress(t)
			for _, d := range all.tenants {
				_, err := d.call(t, "CHECK", address(strings.Trim(d.ipv4+","+d.ipv6, ",")))
				require.NoError(t, err)
			}
			for len(all.tenants) > 0 {
				all.tenants[0].del(t)
				all.tenants = all.tenants[1:]
				all.requireEgress(t)
			}
			c.requireNoAttachment(t)
			out, _ = c.egressIP(t, "cleanup")
			require.NotContains(t, out, "rule")
		})
	}
}

// TestInvariant5DamagedRecord: a damaged record is named by status, and costs nobody's
// egress: neither that of its own pod nor that of others, whatever else is done to the
// node. The pod's DEL removes what the kernel has of it.
func TestInvariant5DamagedRecord(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]func(t *testing.T, path string){
		"empty":     func(t *testing.T, path string) { require.NoError(t, os.Truncate(path, 0)) },
		"truncated": func(t *testing.T, path string) { require.NoError(t, os.Truncate(path, 100)) },
		"garbage": func(t *testing.T, path string) {
			require.NoError(t, os.WriteFile(path, []byte("\x00\x01"), 0o600))
		},
		"directory": func(t *testing.T, path string) {
			require.NoError(t, os.Remove(path))
			require.NoError(t, os.Mkdir(path, 0o700))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStricken(t, object{"probeSNAT": object{"mode": "never"}}, nil)
			broken, sharing, four := s.tenants[0], s.tenants[1], s.tenants[2]
			asks := keepAsking(t, s.cluster, broken.Namespace, egress4, egress6)
			damage(t, filepath.Join(s.recordDir(t), "attachments", broken.id+":eth0.json"))

			// Those who only look say so, and change nothing.
			before := s.state(t)
			out, _ := s.status(t, 1)
			require.Contains(t, out, "attachments/"+broken.id+":eth0.json")
			require.Contains(t, out, "delete that pod")
			_, exit := s.egressIP(t, "explain", four.addresses[0])
			require.Zero(t, exit)
			_, exit = s.egressIP(t, "explain", "payments/"+broken.id)
			require.Equal(t, 3, exit)
			require.Equal(t, before, s.state(t))
			_, exit = s.egressIP(t, "cleanup")
			require.Equal(t, 1, exit, "pods are recorded")

			// Others' calls go on, and others are healed.
			four.del(t)
			run("ip rule del from 10.244.1.6", "nft delete element inet egress_ip snat4 { 10.244.1.6 . enp7s0 }")(t, s.cluster)
			_, exit = s.egressIP(t, "resync")
			require.Zero(t, exit)
			s.requireNothingToDo(t)
			out, _ = s.status(t, 1)
			require.Contains(t, out, "attachments/"+broken.id+":eth0.json")
			_, err := s.plugin(call{command: "GC", stdin: gcStdin(t, "net", object{"cni.dev/valid-attachments": []object{
				{"containerID": "first", "ifname": "eth0"}, {"containerID": "sharing", "ifname": "eth0"}, {"containerID": "far", "ifname": "eth0"},
			}})})
			require.NoError(t, err)
			four.attach(t)
			s.tenants = []*tenant{broken, sharing, four, s.far()}
			s.requireEgress(t)
			for _, d := range s.tenants[1:] {
				d.del(t)
			}
			asks.requireAll(t)

			// It ends as any pod does, but for an egress address of which only it knew.
			broken.del(t)
			for _, command := range []string{
				"ip -4 rule", "ip -6 rule", "nft list ruleset", "conntrack -L -s 10.244.1.5", "conntrack -L -f ipv6 -s fd00:10:244::5",
				"ip -4 route show table all", "ip -6 route show table all",
			} {
				out := s.command(t, "sh", "-c", command)
				require.NotRegexp(t, `(?m)^600\d:`, out, "%s: a rule of egress-ip's", command)
				for _, ours := range []string{"egress_ip", "throw", "4278198272", "src=10.244.1.5", "src=fd00:10:244::5"} {
					require.NotContains(t, out, ours, command)
				}
			}
			require.Empty(t, s.recorded(t))
			s.requireNothingToDo(t)
			s.status(t, 0)
		})
	}
}

// TestInvariant5DamagedRecordAmongOthers: the DEL of a pod whose record is damaged leaves others
// alone, and a clean-up leaves nothing.
func TestInvariant5DamagedRecordAmongOthers(t *testing.T) {
	t.Parallel()
	s := newStricken(t, object{"probeSNAT": object{"mode": "never"}}, nil)
	broken, later := s.tenants[0], s.tenants[1]
	require.NoError(t, os.Truncate(filepath.Join(s.recordDir(t), "attachments", broken.id+":eth0.json"), 0))
	_, err := broken.call(t, "CHECK", both)
	require.ErrorContains(t, err, broken.id+":eth0.json")
	broken.del(t)
	for _, ours := range []string{"from ", "throw ", "\telements = { "} {
		require.NotContains(t, s.state(t), ours+broken.addresses[0]+" ")
	}
	s.tenants = s.tenants[1:]
	s.requireEgress(t)
	s.requireNothingToDo(t)

	// An ADD of the same container records it again.
	require.NoError(t, os.Truncate(filepath.Join(s.recordDir(t), "attachments", later.id+":eth0.json"), 0))
	later.attach(t)
	s.requireEgress(t)
	s.status(t, 0)

	require.NoError(t, os.Truncate(filepath.Join(s.recordDir(t), "attachments", later.id+":eth0.json"), 0))
	_, exit := s.egressIP(t, "cleanup", "--force")
	require.Zero(t, exit)
	require.Empty(t, s.recorded(t))
	for _, command := range []string{"ip rule", "ip -6 rule", "nft list tables"} {
		out := s.command(t, "sh", "-c", command)
		require.NotRegexp(t, `(?m)^600\d:`, out)
		require.NotContains(t, out, "egress_ip")
	}
}

// runWithin runs a command on the node that must end in time, by itself.
func (c *cluster) runWithin(t *testing.T, limit time.Duration, cmd *exec.Cmd) (stdout string, exit int) {
	t.Helper()
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	require.NoError(t, c.Node.Start(t, cmd))
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	ended := make(chan struct{})
	defer close(ended)
	go func() {
		select {
		case <-ctx.Done():
			_ = cmd.Process.Kill()
		case <-ended:
		}
	}()
	_ = cmd.Wait()
	require.NoError(t, ctx.Err(), "%s has not ended: %s", cmd, &out)
	return out.String(), cmd.ProcessState.ExitCode()
}

// TestLockHeld: a call that waits for another one ends with an error that says who has the
// lock. Those who only look do not wait, and plain pods neither.
func TestLockHeld(t *testing.T) {
	t.Parallel()
	c := newNode(t)
	d := c.newDirect(t, "pod", "10.244.1.5", "fd00:10:244::5", noProbe)
	d.add(t, both)
	holder := exec.Command("flock", "--no-fork", c.recordDir(t)+".lock", "sh", "-c", "echo held; exec sleep 900")
	out, err := holder.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, c.Node.Start(t, holder))
	t.Cleanup(func() { _ = holder.Process.Kill(); _ = holder.Wait() })
	_, err = out.Read(make([]byte, 16))
	require.NoError(t, err)

	c.command(t, "ip", "rule", "del", "from", "10.244.1.5") // so that there is something to see
	for exit, args := range map[int][]string{1: {"status"}, 3: {"explain", "no-such-pod"}} {
		begun := time.Now()
		_, have := c.egressIP(t, args...)
		require.Equal(t, exit, have)
		require.Less(t, time.Since(begun), nettest.Within(5*time.Second))
	}
	sandbox := d.Path()
	for _, verb := range []string{"ADD", "DEL"} { // of a plain pod
		plain := pluginCommand(call{verb, "plain", sandbox, request(t, noProbe, nil, "10.244.1.6"), ""})
		text, exit := c.runWithin(t, nettest.Within(5*time.Second), plain)
		require.Zero(t, exit, text)
	}
	for name, cmd := range map[string]*exec.Cmd{
		"ADD":    pluginCommand(call{"ADD", "next", sandbox, request(t, noProbe, both, "10.244.1.7"), "K8S_POD_NAMESPACE=payments"}),
		"DEL":    pluginCommand(call{command: "DEL", containerID: "pod"}),
		"resync": exec.Command(filepath.Join(bin, "egress-ip"), "resync"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			begun := time.Now()
			text, exit := c.runWithin(t, nettest.Within(25*time.Second), cmd)
			require.Equal(t, 1, exit, text)
			require.GreaterOrEqual(t, time.Since(begun), 9*time.Second)
			require.Contains(t, text, fmt.Sprintf("process %d (sleep 900", holder.Process.Pid))
		})
	}
}

// TestPlainWithoutRecord: a plain pod needs no record, whatever is wrong with it.
func TestPlainWithoutRecord(t *testing.T) {
	t.Parallel()
	for name, mount := range map[string]string{
		"read-only":       "mount --bind /run/egress-ip /run/egress-ip && mount -o remount,bind,ro /run/egress-ip",
		"not a directory": "true", // it is not one for anybody
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newNode(t)
			d := c.newDirect(t, "pod", "10.244.1.5", "fd00:10:244::5", noProbe)
			d.add(t, both)
			if name == "not a directory" {
				require.NoError(t, os.RemoveAll(filepath.Join(c.recordDir(t), "attachments")))
				require.NoError(t, os.WriteFile(filepath.Join(c.recordDir(t), "attachments"), nil, 0o600))
			}
			before := c.state(t)
			for _, step := range []struct {
				verb, id string
				exit     int
			}{{"ADD", "plain", 0}, {"DEL", "plain", 0}, {"DEL", "never", 0}} {
				plugin := pluginCommand(call{step.verb, step.id, d.Path(), request(t, noProbe, nil, "10.244.1.6"), ""})
				cmd := exec.Command("unshare", "--mount", "sh", "-c", mount+` && exec "$0"`, plugin.Path)
				cmd.Env, cmd.Stdin = append(plugin.Env, "PATH="+os.Getenv("PATH")), plugin.Stdin
				out, exit := c.runWithin(t, nettest.Within(25*time.Second), cmd)
				require.Equal(t, step.exit, exit, "%s of %s: %s", step.verb, step.id, out)
			}
			require.Equal(t, before, c.state(t))
			if name == "not a directory" { // an annotated one's DEL cannot know what to remove
				_, err := c.plugin(call{command: "DEL", containerID: "pod"})
				require.ErrorContains(t, err, "attachments")
				require.Equal(t, before, c.state(t))
			}
		})
	}
}
