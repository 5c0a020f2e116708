package kernel

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// AllLinks is the name below which a sysctl counts for every link of the node.
const AllLinks = "all"

// conf has a directory of sysctls for each link, those of the process's own network
// namespace, as all of /proc/sys/net does.
const conf = "/proc/sys/net/ipv4/conf"

// In a container all of /proc/sys is read-only, whatever its capabilities, and a
// runtime mounts nothing into it. So the DaemonSet has that directory of the node's
// mounted here, where it is the same to a pod in the node's network namespace.
const mountedConf = "/host" + conf

// SrcValidMark reports whether the way back of packets that come by a link is looked up
// with their mark. It is not for a link that does not exist.
func SrcValidMark(link string) (bool, error) {
	value, err := readSysctl(srcValidMark(conf, link))
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return value == "1", err
}

// SetSrcValidMark says whether it is to be; a link that does not exist needs nothing.
func SetSrcValidMark(link string, on bool) error {
	value := "0"
	if on {
		value = "1"
	}
	err := os.WriteFile(srcValidMark(conf, link), []byte(value), 0)
	if errors.Is(err, unix.EROFS) && os.WriteFile(srcValidMark(mountedConf, link), []byte(value), 0) == nil {
		return nil
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("set net.ipv4.conf.%s.src_valid_mark to %s: %w", link, value, err)
	}
	return nil
}

func readSysctl(path string) (string, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read a sysctl: %w", err)
	}
	return strings.TrimSpace(string(data)), nil
}

func srcValidMark(conf, link string) string { return filepath.Join(conf, link, "src_valid_mark") }
