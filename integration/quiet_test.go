package integration

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// egressIP runs a command of the binary on the node; exit is its exit status.
func (c *cluster) egressIP(t testing.TB, args ...string) (stdout string, exit int) {
	t.Helper()
	var out, diagnostics strings.Builder
	cmd := exec.Command(filepath.Join(bin, "egress-ip"), args...)
	cmd.Stdout, cmd.Stderr = &out, &diagnostics
	_ = c.Node.Run(cmd)
	t.Logf("%s\n%s%s", cmd, &out, &diagnostics)
	return out.String(), cmd.ProcessState.ExitCode()
}

// requireNothingToDo: a resync says so. It has asked the kernel and told it nothing,
// and has written no file.
func (c *cluster) requireNothingToDo(t *testing.T) {
	t.Helper()
	trace := filepath.Join(t.TempDir(), "trace")
	generation, changes := c.generation(t), c.watchChanges(t)
	require.Equal(t, "nothing to do\n", c.command(t, "strace", "-f", "-o", trace, "-e", "trace=sendto,sendmsg,%file",
		filepath.Join(bin, "egress-ip"), "resync"))
	require.Empty(t, changes())
	require.Equal(t, generation, c.generation(t))
	calls, err := os.ReadFile(trace)
	require.NoError(t, err)
	asked := 0
	for call := range strings.Lines(string(calls)) {
		require.NotRegexp(t, writesFile, call)
		for _, message := range messageType.FindAllStringSubmatch(call, -1) {
			require.Regexp(t, asksKernel, message[1], "%s", call)
			asked++
		}
	}
	require.NotZero(t, asked)
}

// What strace says of system calls.
var (
	writesFile  = regexp.MustCompile(`O_WRONLY|O_RDWR|O_CREAT|O_TRUNC| (unlink|rename|mkdir|rmdir|symlink|link|chmod)(at2?)?\(`)
	messageType = regexp.MustCompile(`nlmsg_type=([^,]*),`)
	asksKernel  = regexp.MustCompile(`^(RTM_GET[A-Z]+|NFNL_SUBSYS_NFTABLES<<8\|NFT_MSG_GET[A-Z]+)$`)
)

// watchChanges listens to what the kernel says of the node's rules, routes and
// addresses from now on. The function that it returns gives the types of the
// messages so far (linux/rtnetlink.h: 24 is RTM_NEWROUTE), and ends it.
func (c *cluster) watchChanges(t *testing.T) (changes func() []uint16) {
	t.Helper()
	var groups uint32
	for _, group := range []int{
		unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV4_IFADDR,
		unix.RTNLGRP_IPV6_RULE, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV6_IFADDR,
	} {
		groups |= 1 << (group - 1)
	}
	var fd int
	var err error
	c.Node.Do(t, func() {
		if fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE); err == nil {
			err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups})
		}
	})
	require.NoError(t, err)
	return func() (types []uint16) {
		t.Helper()
		defer unix.Close(fd)
		for buffer := make([]byte, 1<<16); ; {
			n, _, err := unix.Recvfrom(fd, buffer, 0)
			if errors.Is(err, unix.EAGAIN) {
				return types
			}
			require.NoError(t, err)
			messages, err := syscall.ParseNetlinkMessage(buffer[:n])
			require.NoError(t, err)
			for _, m := range messages {
				types = append(types, m.Header.Type)
			}
		}
	}
}
