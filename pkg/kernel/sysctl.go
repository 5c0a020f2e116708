package kernel

import (
	"fmt"
	"os"
	"strings"
)

// srcValidMark shows the process's own network namespace, as all of /proc/sys/net does.
const srcValidMark = "/proc/sys/net/ipv4/conf/all/src_valid_mark"

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
	if err := os.WriteFile(srcValidMark, []byte(value), 0); err != nil {
		return fmt.Errorf("set net.ipv4.conf.all.src_valid_mark to %s: %w", value, err)
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
