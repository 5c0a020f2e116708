package lock

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Process is one that has a lock.
type Process struct {
	PID     int    // 0: it cannot be seen from this PID namespace
	Command string // its command line
}

// HeldError says that another process did not release a lock in time.
type HeldError struct {
	File   File
	Holder Process
	Waited time.Duration
}

func (e *HeldError) Error() string {
	if e.Holder.PID == 0 {
		return fmt.Sprintf("waited %s for %s, which a process has locked that cannot be seen from this PID namespace; find it on the node with `lslocks`, and end it if it hangs", e.Waited, e.File)
	}
	return fmt.Sprintf("waited %s for %s, which process %d (%s) has locked; if it hangs, end it: kill %d", e.Waited, e.File, e.Holder.PID, e.Holder.Command, e.Holder.PID)
}

// lockedBy asks the kernel which process has the open file locked. It is asked only where
// somebody has: the file itself need not say it, and can say nothing that is not so.
func (f File) lockedBy(fd int) (Process, error) {
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		return Process{}, f.failed("stat", err)
	}
	inode := fmt.Sprintf("%02x:%02x:%d", unix.Major(stat.Dev), unix.Minor(stat.Dev), stat.Ino)
	// The kernel hands its list out by pages. What it has not come to yet it may leave out, where others release
	// their locks between two of them. It always leaves out processes of other PID namespaces.
	const most = 50
	for range most {
		pid, err := lockerOf(inode)
		switch {
		case err != nil:
			return Process{}, fmt.Errorf("read who has locked %s: %w", f, err)
		case pid > 0 && !seesOwnPIDs():
			return Process{}, nil
		case pid > 0:
			return Process{pid, commandOf(pid)}, nil
		}
	}
	return Process{}, nil
}

// lockerOf looks for an inode in the kernel's list; 0 is none.
func lockerOf(inode string) (pid int, err error) {
	locks, err := os.Open("/proc/locks")
	if err != nil {
		return 0, err
	}
	defer locks.Close()
	// 3: FLOCK  ADVISORY  WRITE 4711 00:18:1234 0 EOF; one that waits has -> in between.
	lines := bufio.NewScanner(locks)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) >= 6 && fields[1] == "FLOCK" && fields[5] == inode {
			return strconv.Atoi(fields[4])
		}
	}
	return 0, lines.Err()
}

// seesOwnPIDs reports whether /proc has the numbers of this process's PID namespace.
func seesOwnPIDs() bool {
	self, err := os.Readlink("/proc/self")
	return err == nil && self == strconv.Itoa(os.Getpid())
}

func commandOf(pid int) string {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil || len(line) == 0 {
		return "its command cannot be read"
	}
	return string(bytes.ReplaceAll(bytes.TrimRight(line, "\x00"), []byte{0}, []byte{' '}))
}
