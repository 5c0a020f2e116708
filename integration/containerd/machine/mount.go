package main

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// namesOfTables is where egress-ip writes names for iproute2, if it is there.
const namesOfTables = "/etc/iproute2/rt_tables.d"

// mountAll gives the node a /run, /proc, /var/lib and names of routing tables of its own.
func mountAll(lib string) error {
	if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := leaveRun(); err != nil {
		return err
	}
	type mount struct {
		source, target, kind string
		flags                uintptr
	}
	mounts := []mount{
		{"tmpfs", "/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV},
		{lib, "/var/lib", "", unix.MS_BIND},
		{"proc", "/proc", "proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
	}
	if _, err := os.Stat(namesOfTables); err == nil {
		mounts = append(mounts, mount{"tmpfs", namesOfTables, "tmpfs", 0})
	}
	for _, m := range mounts {
		if err := unix.Mount(m.source, m.target, m.kind, m.flags, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
	}
	return nil
}

// leaveRun unmounts what the machine around has below /run: other networks' namespaces,
// which would else live as long as this node.
func leaveRun() error {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(mounts)) {
		target := strings.Fields(line)[1]
		if !strings.HasPrefix(target, "/run/") {
			continue
		}
		// It may have gone with one above it, or with its file.
		if err := unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && err != unix.EINVAL && err != unix.ENOENT {
			return fmt.Errorf("unmount %s: %w", target, err)
		}
	}
	return nil
}
