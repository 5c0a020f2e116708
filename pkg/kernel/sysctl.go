package kernel

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// srcValidMark shows the process's own network namespace, as all of /proc/sys/net does.
const srcValidMark = "/proc/sys/net/ipv4/conf/all/src_valid_mark"

// In a container all of /proc/sys is read-only, whatever its capabilities, and a
// runtime mounts nothing into it. So the DaemonSet has that one file of the node's
// mounted here, where it is the same to a pod in the node's network namespace.
const mountedSrcValidMark = "/host" + srcValidMark

// SrcValidMark reports whether the reverse path is looked up with the packet's mark.
func SrcValidMark() (bool, error) {
	value, err := readSysctl(srcValidMark)
	return value == "1", err
}

// SetSrcValidMark says whether it is to be.
func SetSrcValidMark(on bool) error {
	value := "0"
	if on {
		value = "1"
	}
	err := writeSysctl(srcValidMark, value)
	if errors.Is(err, unix.EROFS) && writeSysctl(mountedSrcValidMark, value) == nil {
		return nil
	}
	if err != nil {
		return fmt.Errorf("set net.ipv4.conf.all.src_valid_mark to %s: %w", value, err)
	}
	return nil
}

func writeSysctl(path, value string) error { return os.WriteFile(path, []byte(value), 0) }

func readSysctl(path string) (string, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read a sysctl: %w", err)
	}
	return strings.TrimSpace(string(data)), nil
}
