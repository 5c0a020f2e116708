package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// removeCgroups removes the cgroup of that name from every hierarchy, whether version 1
// or 2. What was in it has just been killed; the kernel is done with it soon after.
func removeCgroups(name string) error {
	var all []error
	for _, pattern := range []string{"/sys/fs/cgroup/*/", "/sys/fs/cgroup/"} {
		tops, err := filepath.Glob(pattern + name)
		if err != nil {
			return err
		}
		for _, top := range tops {
			all = append(all, removeCgroup(top))
		}
	}
	return errors.Join(all...)
}

// removeCgroup removes a cgroup and those below it; its files cannot be removed, and need not be.
func removeCgroup(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeCgroup(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	deadline := time.Now().Add(10 * time.Second)
	for err = unix.Rmdir(dir); err == unix.EBUSY && time.Now().Before(deadline); err = unix.Rmdir(dir) {
		time.Sleep(time.Millisecond)
	}
	if err != nil {
		return fmt.Errorf("remove cgroup %s: %w", dir, err)
	}
	return nil
}
