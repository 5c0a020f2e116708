package integration

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestInvariant9SilentKernel: the kernel never answers, by one of the two calls with which answers
// are read: rtnetlink's and conntrack's by one, nf_tables' by the other. What waits for
// it ends well before a runtime would end it, and says what it has waited for.
func TestInvariant9SilentKernel(t *testing.T) {
	t.Parallel()
	const runtime = 100 * time.Second // a kubelet waits for two minutes
	ctx, cancel := context.WithTimeout(t.Context(), runtime)
	defer cancel()
	ended := map[string]chan error{}
	for call, commands := range map[string][]string{
		"recvfrom": {"ADD", "DEL", "resync", "status"},
		"recvmsg":  {"ADD", "resync", "status"}, // the last pod's DEL deletes the table, and reads nothing
	} {
		for _, command := range commands {
			c := newCluster(t, nettest.LabOptions{SecondDefault: true}, "1.0.0")
			d := c.newDirect(t, "pod", "10.244.1.5", "fd00:10:244::5", egressIP(nil))
			if command != "ADD" {
				d.add(t, both)
			}
			end := make(chan error, 1)
			ended[command+", "+call] = end
			go func() { end <- d.deafTo(ctx, t, call, command) }() // side by side: all they do is wait
		}
	}
	for name, end := range ended {
		require.NoError(t, <-end, name)
	}
}

// deafTo runs a verb or a command to which a system call never brings an answer.
func (d *direct) deafTo(ctx context.Context, t *testing.T, call, command string) error {
	cmd := exec.CommandContext(ctx, "strace", "-f", "-qq", "-o", "/dev/null", "-e", "inject="+call+":error=EAGAIN", filepath.Join(bin, "egress-ip"))
	cmd.WaitDelay = time.Second
	if command == strings.ToUpper(command) {
		cmd.Env = []string{
			"CNI_COMMAND=" + command, "CNI_CONTAINERID=" + d.id, "CNI_IFNAME=eth0", "CNI_NETNS=" + d.Path(),
			"CNI_PATH=" + bin, "CNI_ARGS=K8S_POD_NAMESPACE=payments;K8S_POD_NAME=pod",
		}
		cmd.Stdin = strings.NewReader(request(t, d.entry, both, d.addresses...))
	} else {
		cmd.Args = append(cmd.Args, command)
	}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	begin := time.Now()
	err := d.cluster.Node.Run(cmd)
	t.Logf("%s without %s, after %v: %v\n%s", command, call, time.Since(begin), err, &out)
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("a runtime would have killed it: %w", ctx.Err())
	case err == nil || out.Len() == 0:
		return fmt.Errorf("it says nothing: %w", err)
	case time.Since(begin) < time.Second:
		return fmt.Errorf("it has not waited at all: %w\n%s", err, &out)
	}
	for line := range strings.Lines(out.String()) {
		for _, bare := range []string{unix.EAGAIN.Error(), unix.EBADF.Error(), "use of closed file"} {
			if strings.Contains(line, bare) && !strings.Contains(line, "the kernel has not answered") {
				return fmt.Errorf("it does not say what that means: %s", line)
			}
		}
	}
	return nil
}
