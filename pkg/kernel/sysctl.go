package kernel

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
)

// The process's own network namespace shows through /proc/sys/net.
const (
	confDir      = "/proc/sys/net/ipv4/conf/"
	srcValidMark = confDir + "all/src_valid_mark"
)

// StrictReversePath reports whether the kernel drops packets that come in by any
// of these links when the way back is by another (rp_filter 1). Of all's value
// and the link's the higher counts.
func StrictReversePath(links []string) (bool, error) {
	all, err := readSysctl(confDir + "all/rp_filter")
	if err != nil {
		return false, err
	}
	for _, link := range links {
		value, err := readSysctl(confDir + link + "/rp_filter")
		if errors.Is(err, fs.ErrNotExist) {
			continue // the link has gone
		}
		if err != nil {
			return false, err
		}
		if max(all, value) == "1" {
			return true, nil
		}
	}
	return false, nil
}

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
