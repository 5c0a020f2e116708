package names

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// machine says that the process is the first one of a machine of its own.
const machine = "EGRESS_IP_TEST_MACHINE"

// The namespaces of process 1 are those of its main thread, which no test must
// change; and that thread's end is what Pdeathsig waits for.
func init() { runtime.LockOSThread() }

// TestMain runs the tests where they are process 1, with a network namespace and
// an /etc/iproute2 of their own: what they set is not this machine's, and
// process 1 of this machine need not let them look.
func TestMain(m *testing.M) {
	if os.Getenv(machine) == "" {
		os.Exit(again())
	}
	if err := furnish(); err != nil {
		fmt.Fprintln(os.Stderr, "furnish a machine for the tests:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func again() int {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), machine+"=1")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWPID,
		Pdeathsig:  unix.SIGKILL,
	}
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		fmt.Fprintln(os.Stderr, "run the tests on a machine of their own, as root:", err)
		return 1
	}
	return cmd.ProcessState.ExitCode()
}

func furnish() error {
	unix.Umask(0o077) // as a hardened runtime may have it
	return errors.Join(
		unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
		unix.Mount("proc", "/proc", "proc", 0, ""),
		unix.Mount("none", "/run", "tmpfs", 0, ""),
		unix.Mount("none", "/etc", "tmpfs", 0, ""),
		os.MkdirAll(directory, 0o755),
		os.WriteFile("/etc/iproute2/rt_tables", []byte("255\tlocal\n254\tmain\n253\tdefault\n0\tunspec\n"), 0o644),
	)
}
