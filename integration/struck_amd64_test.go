package integration

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// strike is what happens to a process at one of its system calls, before the kernel
// has done anything of that call: it fails with an error, or, where that is 0, the
// process is killed.
type strike struct {
	at    int // which of the process's system calls, all its threads counted together, from 1
	error func(call uint64) unix.Errno
}

// struck is how a process ended.
type struck struct {
	stdout, stderr string
	status         unix.WaitStatus
	call           string // the system call at which it was struck; empty: it ended before that one
	calls          int    // how many it has made, up to that one
	hung           bool   // it did not end by itself
}

func (s struck) succeeded() bool { return s.status.Exited() && s.status.ExitStatus() == 0 }

func (s struck) String() string {
	end := fmt.Sprintf("exit status %d", s.status.ExitStatus())
	if s.status.Signaled() {
		end = s.status.Signal().String()
	}
	return fmt.Sprintf("struck at %s; %s\n%s%s", s.call, end, s.stdout, s.stderr)
}

// patience is how long a process may take that is struck.
var patience = nettest.Within(30 * time.Second)

// strike runs a command on the node with ptrace(2), and strikes it.
func (s strike) run(t testing.TB, n *nettest.Namespace, cmd *exec.Cmd, stdin string) struck {
	t.Helper()
	var result struck
	var err error
	n.Do(t, func() { result, err = s.trace(cmd, stdin) }) // a thread of its own, as ptrace needs
	require.NoError(t, err)
	require.False(t, result.hung, "it has not ended after %s: %s", patience, result)
	return result
}

func (s strike) trace(cmd *exec.Cmd, stdin string) (struck, error) {
	var files []*os.File
	for range 3 {
		fd, err := unix.MemfdCreate("standard stream", unix.MFD_CLOEXEC)
		if err != nil {
			return struck{}, err
		}
		file := os.NewFile(uintptr(fd), "standard stream")
		defer file.Close()
		files = append(files, file)
	}
	if _, err := files[0].WriteAt([]byte(stdin), 0); err != nil {
		return struck{}, err
	}
	pid, err := syscall.ForkExec(cmd.Path, cmd.Args, &syscall.ProcAttr{
		Env:   append([]string{}, cmd.Env...),
		Files: []uintptr{files[0].Fd(), files[1].Fd(), files[2].Fd()},
		Sys:   &syscall.SysProcAttr{Ptrace: true, Setpgid: true},
	})
	if err != nil {
		return struck{}, err
	}
	tracer := tracer{strike: s, pid: pid, inside: map[int]bool{}}
	var hung atomic.Bool
	timer := time.AfterFunc(patience, func() { hung.Store(true); _ = unix.Kill(pid, unix.SIGKILL) })
	status, err := tracer.follow()
	timer.Stop()
	if err != nil {
		_ = unix.Kill(pid, unix.SIGKILL)
		return struck{}, err
	}
	result := struck{status: status, call: tracer.struck, calls: tracer.calls, hung: hung.Load()}
	for i, text := range []*string{&result.stdout, &result.stderr} {
		all, err := readAll(files[i+1])
		if err != nil {
			return struck{}, err
		}
		*text = all
	}
	return result, nil
}

func readAll(file *os.File) (string, error) {
	size, err := file.Seek(0, 2)
	if err != nil {
		return "", err
	}
	text := make([]byte, size)
	_, err = file.ReadAt(text, 0)
	return string(text), err
}

// tracer follows a process, and all threads that it starts.
type tracer struct {
	strike
	pid    int
	inside map[int]bool // threads, and whether they are inside a system call
	calls  int          // so far
	struck string
}

// follow returns how the process ended.
func (t *tracer) follow() (unix.WaitStatus, error) {
	const options = unix.PTRACE_O_TRACESYSGOOD | unix.PTRACE_O_TRACECLONE | unix.PTRACE_O_EXITKILL
	for {
		var status unix.WaitStatus
		// Its threads alone, by their process group: this thread may have inherited children of others.
		thread, err := unix.Wait4(-t.pid, &status, unix.WALL, nil)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return status, fmt.Errorf("wait for process %d: %w", t.pid, err)
		case !status.Stopped():
			delete(t.inside, thread)
			if thread == t.pid {
				return status, nil
			}
			continue
		}
		_, known := t.inside[thread]
		deliver := 0
		switch signal := status.StopSignal(); {
		case !known && thread == t.pid: // after execve
			t.inside[thread] = false
			err = unix.PtraceSetOptions(thread, options)
		case !known: // a thread's first stop
			t.inside[thread] = false
		case signal == unix.SIGTRAP|0x80:
			if t.inside[thread] = !t.inside[thread]; t.inside[thread] && t.struck == "" {
				err = t.enter(thread)
			}
		case signal != unix.SIGTRAP:
			deliver = int(signal)
		}
		if err == nil {
			err = t.resume(thread, deliver)
		}
		if err != nil && err != unix.ESRCH { // it has been killed
			return status, fmt.Errorf("trace thread %d: %w", thread, err)
		}
	}
}

// enter is called when a thread is about to enter a system call.
func (t *tracer) enter(thread int) error {
	var registers unix.PtraceRegs
	if err := unix.PtraceGetRegs(thread, &registers); err != nil {
		return err
	}
	call := registers.Orig_rax
	if notCounted[call] {
		return nil
	}
	if t.calls++; t.calls != t.at {
		return nil
	}
	t.struck = fmt.Sprintf("call %d, %s", t.calls, describe(thread, registers))
	errno := t.error(call)
	if errno == 0 {
		return unix.Kill(t.pid, unix.SIGKILL)
	}
	t.struck += fmt.Sprintf(", with %s", unix.ErrnoName(errno))
	registers.Orig_rax = ^uint64(0) // no system call has this number; what is in rax stays
	registers.Rax = uint64(-int64(errno))
	return unix.PtraceSetRegs(thread, &registers)
}

func (t *tracer) resume(thread, signal int) error {
	if t.struck == "" {
		return unix.PtraceSyscall(thread, signal)
	}
	return unix.PtraceCont(thread, signal)
}

// notCounted are the system calls that only Go's runtime makes. How often it does depends on
// when its threads run; and a process that is killed there has done what it had done at its
// next call.
var notCounted = map[uint64]bool{
	unix.SYS_CLONE: true, unix.SYS_CLONE3: true, unix.SYS_EPOLL_CREATE1: true, unix.SYS_EPOLL_CTL: true,
	unix.SYS_EPOLL_PWAIT: true, unix.SYS_EPOLL_PWAIT2: true, unix.SYS_EVENTFD2: true, unix.SYS_EXIT: true,
	unix.SYS_EXIT_GROUP: true, unix.SYS_FUTEX: true, unix.SYS_GETPID: true, unix.SYS_GETTID: true,
	unix.SYS_MADVISE: true, unix.SYS_MMAP: true, unix.SYS_MUNMAP: true, unix.SYS_NANOSLEEP: true,
	unix.SYS_RESTART_SYSCALL: true, unix.SYS_RT_SIGACTION: true, unix.SYS_RT_SIGPROCMASK: true,
	unix.SYS_RT_SIGRETURN: true, unix.SYS_SCHED_GETAFFINITY: true, unix.SYS_SCHED_YIELD: true,
	unix.SYS_SIGALTSTACK: true, unix.SYS_TGKILL: true, unix.SYS_ARCH_PRCTL: true, unix.SYS_PRCTL: true,
	unix.SYS_EXECVE: true, // its end is seen here
}

// callNames are those that messages name; others have their number.
var callNames = map[uint64]string{
	unix.SYS_OPENAT: "openat", unix.SYS_READ: "read", unix.SYS_WRITE: "write", unix.SYS_CLOSE: "close",
	unix.SYS_SENDTO: "sendto", unix.SYS_SENDMSG: "sendmsg", unix.SYS_RECVFROM: "recvfrom", unix.SYS_RECVMSG: "recvmsg",
	unix.SYS_SOCKET: "socket", unix.SYS_BIND: "bind", unix.SYS_SETSOCKOPT: "setsockopt", unix.SYS_GETSOCKOPT: "getsockopt",
	unix.SYS_GETSOCKNAME: "getsockname", unix.SYS_FCNTL: "fcntl", unix.SYS_FLOCK: "flock", unix.SYS_FSYNC: "fsync",
	unix.SYS_RENAMEAT: "renameat", unix.SYS_RENAMEAT2: "renameat2", unix.SYS_UNLINKAT: "unlinkat", unix.SYS_MKDIRAT: "mkdirat",
	unix.SYS_SYMLINKAT: "symlinkat", unix.SYS_READLINKAT: "readlinkat", unix.SYS_NEWFSTATAT: "newfstatat", unix.SYS_FSTAT: "fstat",
	unix.SYS_GETDENTS64: "getdents64", unix.SYS_PREAD64: "pread64", unix.SYS_STATFS: "statfs", unix.SYS_IOCTL: "ioctl",
	unix.SYS_PSELECT6: "pselect6", unix.SYS_FCHMOD: "fchmod", unix.SYS_FCHMODAT: "fchmodat", unix.SYS_FCHOWN: "fchown",
	unix.SYS_FCHOWNAT: "fchownat", unix.SYS_SETNS: "setns", unix.SYS_UNLINK: "unlink", unix.SYS_RMDIR: "rmdir",
	unix.SYS_LSEEK: "lseek", unix.SYS_MEMFD_CREATE: "memfd_create", unix.SYS_PWRITE64: "pwrite64", unix.SYS_UNAME: "uname", unix.SYS_COPY_FILE_RANGE: "copy_file_range", unix.SYS_FLISTXATTR: "flistxattr",
}

// describe says which call it is, and what of.
func describe(thread int, r unix.PtraceRegs) string {
	name, ok := callNames[r.Orig_rax]
	if !ok {
		name = fmt.Sprintf("system call %d", r.Orig_rax)
	}
	path := func(at uint64) string {
		text := make([]byte, 256)
		if at == 0 {
			return ""
		}
		local := []unix.Iovec{{Base: unsafe.SliceData(text), Len: uint64(len(text))}}
		// Up to the end of a page at the most.
		length := min(len(text), 4096-int(at%4096))
		local[0].SetLen(length)
		n, err := unix.ProcessVMReadv(thread, local, []unix.RemoteIovec{{Base: uintptr(at), Len: length}}, 0)
		if err != nil {
			return ""
		}
		before, _, _ := strings.Cut(string(text[:n]), "\x00")
		return before
	}
	switch {
	case slices.Contains([]uint64{unix.SYS_SOCKET, unix.SYS_UNAME, unix.SYS_MEMFD_CREATE}, r.Orig_rax):
	case slices.Contains([]string{"unlink", "rmdir"}, name):
		return name + " " + path(r.Rdi)
	case strings.HasSuffix(name, "at") || strings.HasPrefix(name, "renameat"):
		if name != "symlinkat" {
			return name + " " + path(r.Rsi)
		}
		return name + " " + path(r.Rdx)
	default:
		target, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", thread, r.Rdi))
		return fmt.Sprintf("%s %d (%s)", name, r.Rdi, target)
	}
	return name
}
