package integration

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// refusal is a kernel, or a seccomp profile, that says no to a program: to opening
// sockets, or to messages to rtnetlink.
type refusal struct {
	// domain and protocol are those of sockets that cannot be opened; protocol -1: of
	// every protocol.
	domain, protocol int
	// family is that of the rtnetlink requests of the type message that fail; 0: none do.
	message uint16
	family  byte
	errno   unix.Errno
}

// Of a process that refusing starts: what it is to refuse its program, and which
// descriptors it tells its parent the listener by, and hears from it that it may go on.
const (
	refusalVariable     = "EGRESS_IP_TEST_REFUSAL"
	refusalTell, goesOn = 3, 4
)

// refusing makes a command one that the kernel refuses this. The process installs a
// seccomp filter before it runs the program, so it holds for all of that. Started is to
// be called once the command has been started, and serves the filter until it ends.
func refusing(t *testing.T, cmd *exec.Cmd, r refusal) (started func()) {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	told, tell, err := os.Pipe()
	require.NoError(t, err)
	wait, goOn, err := os.Pipe()
	require.NoError(t, err)
	t.Cleanup(func() {
		for _, f := range []*os.File{told, tell, wait, goOn} {
			_ = f.Close()
		}
	})
	if cmd.Env == nil {
		cmd.Env = os.Environ()
	}
	cmd.Env = append(cmd.Env, fmt.Sprintf("%s=%d %d %d", refusalVariable, r.domain, r.protocol, r.errno))
	cmd.Path, cmd.Args = self, append([]string{self, cmd.Path}, cmd.Args[1:]...)
	cmd.ExtraFiles = []*os.File{tell, wait}
	return func() {
		t.Helper()
		_ = tell.Close() // the child has it; without it, nothing is told and the read ends
		var number [4]byte
		_, err := told.Read(number[:])
		require.NoError(t, err)
		pid, err := unix.PidfdOpen(cmd.Process.Pid, 0)
		require.NoError(t, err)
		defer unix.Close(pid)
		listener, err := unix.PidfdGetfd(pid, int(binary.NativeEndian.Uint32(number[:])), 0)
		require.NoError(t, err)
		_, err = goOn.Write([]byte{1})
		require.NoError(t, err)
		go r.serve(listener)
	}
}

// runRefused is the other end: the process of refusing, which becomes the program.
func runRefused() error {
	runtime.LockOSThread() // the filter is this thread's, and the program's from exec on
	var domain, protocol int
	var errno uint16
	if _, err := fmt.Sscan(os.Getenv(refusalVariable), &domain, &protocol, &errno); err != nil {
		return err
	}
	if err := os.Unsetenv(refusalVariable); err != nil {
		return err
	}
	listener, err := filter(domain, protocol, errno)
	if err != nil {
		return fmt.Errorf("install a seccomp filter: %w", err)
	}
	if _, err := unix.Write(refusalTell, binary.NativeEndian.AppendUint32(nil, uint32(listener))); err != nil {
		return err
	}
	if _, err := unix.Read(goesOn, make([]byte, 1)); err != nil {
		return err
	}
	for _, fd := range []int{refusalTell, goesOn} {
		_ = unix.Close(fd)
	}
	return unix.Exec(os.Args[1], os.Args[1:], os.Environ())
}

// Where struct seccomp_data (linux/seccomp.h) has what the filter looks at: the lower
// halves of arguments, on a little-endian machine.
const (
	seccompNumber    = 0
	seccompArguments = 16
)

// filter refuses sockets, and hands every sendto to the listener that it returns.
func filter(domain, protocol int, errno uint16) (listener int, err error) {
	argument := func(i uint32) bpf.Instruction { return bpf.LoadAbsolute{Off: seccompArguments + 8*i, Size: 4} }
	allow := bpf.RetConstant{Val: unix.SECCOMP_RET_ALLOW}
	program := []bpf.Instruction{
		bpf.LoadAbsolute{Off: seccompNumber, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.SYS_SENDTO, SkipTrue: 1},
		bpf.RetConstant{Val: unix.SECCOMP_RET_USER_NOTIF},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.SYS_SOCKET, SkipTrue: 1},
		allow,
		argument(0),
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(domain), SkipTrue: 1},
		allow,
		argument(2),
	}
	if protocol >= 0 {
		program = append(program, bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(protocol), SkipTrue: 1}, allow)
	}
	raw, err := bpf.Assemble(append(program, bpf.RetConstant{Val: unix.SECCOMP_RET_ERRNO | uint32(errno)}))
	if err != nil {
		return 0, err
	}
	var filters []unix.SockFilter
	for _, i := range raw {
		filters = append(filters, unix.SockFilter{Code: i.Op, Jt: i.Jt, Jf: i.Jf, K: i.K})
	}
	prog := unix.SockFprog{Len: uint16(len(filters)), Filter: &filters[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return 0, err
	}
	fd, _, failed := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_NEW_LISTENER, uintptr(unsafe.Pointer(&prog)))
	if failed != 0 {
		return 0, failed
	}
	return int(fd), nil
}

// seccompNotif and seccompResponse are struct seccomp_notif and seccomp_notif_resp.
type seccompNotif struct {
	ID     uint64
	PID    uint32
	Flags  uint32
	Number int32
	Arch   uint32
	IP     uint64
	Args   [6]uint64
}

type seccompResponse struct {
	ID    uint64
	Value int64
	Error int32
	Flags uint32
}

// serve answers for the kernel, until the last process that has the filter has ended.
func (r refusal) serve(listener int) {
	defer unix.Close(listener)
	for {
		poll := []unix.PollFd{{Fd: int32(listener), Events: unix.POLLIN}}
		if _, err := unix.Poll(poll, -1); err != nil && !errors.Is(err, unix.EINTR) || poll[0].Revents&unix.POLLHUP != 0 {
			return
		}
		var notif seccompNotif
		if _, _, failed := unix.Syscall(unix.SYS_IOCTL, uintptr(listener), unix.SECCOMP_IOCTL_NOTIF_RECV, uintptr(unsafe.Pointer(&notif))); failed != 0 {
			continue // the process has gone meanwhile
		}
		answer := seccompResponse{ID: notif.ID, Flags: unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE}
		if r.family != 0 && r.refuses(int(notif.PID), uintptr(notif.Args[1]), int(notif.Args[2])) {
			answer.Flags, answer.Error = 0, -int32(r.errno)
		}
		_, _, _ = unix.Syscall(unix.SYS_IOCTL, uintptr(listener), unix.SECCOMP_IOCTL_NOTIF_SEND, uintptr(unsafe.Pointer(&answer)))
	}
}

// refuses looks at a netlink message in a process' memory.
func (r refusal) refuses(pid int, at uintptr, length int) bool {
	message := make([]byte, unix.SizeofNlMsghdr+1)
	if length < len(message) {
		return false
	}
	memory, err := os.Open("/proc/" + strconv.Itoa(pid) + "/mem")
	if err != nil {
		return false
	}
	defer memory.Close()
	if _, err := memory.ReadAt(message, int64(at)); err != nil {
		return false
	}
	return binary.NativeEndian.Uint16(message[4:]) == r.message && message[unix.SizeofNlMsghdr] == r.family
}
