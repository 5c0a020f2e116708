// Package release checks what `make image` makes: releases, their bill of materials and
// the image; and the manifests that run the image.
package release

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const (
	root    = "../.."
	version = "v9.8.7"
	date    = "2026-02-03T04:05:06Z"
)

// The sources as they are here, committed and tagged in a repository of their own, made
// into a release there, and once more in a work tree of it in another folder.
var (
	repository, worktree string
	commit               string
)

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "release")
	if err == nil {
		defer os.RemoveAll(dir)
		repository, worktree = filepath.Join(dir, "repository"), filepath.Join(dir, "elsewhere", "tree")
		err = releaseTwice()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

func releaseTwice() error {
	if err := copySources(repository); err != nil {
		return err
	}
	for _, args := range [][]string{
		{"init", "-q"}, {"add", "-A"}, {"commit", "-qm", "sources"}, {"tag", version},
		{"worktree", "add", "-q", "--detach", worktree},
	} {
		if _, err := in(repository, "git", args...); err != nil {
			return err
		}
	}
	var err error
	if commit, err = in(repository, "git", "rev-parse", "HEAD"); err != nil {
		return err
	}
	for _, dir := range []string{repository, worktree} {
		if _, err := in(dir, "make", "image"); err != nil {
			return err
		}
	}
	return nil
}

// copySources copies what git has or would add.
func copySources(to string) error {
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	const copy = `git ls-files -z -co --exclude-standard | while IFS= read -rd '' f; do
		if [ -e "$f" ]; then cp --parents -- "$f" "$1" || exit; fi; done`
	_, err := in(root, "bash", "-c", copy, "copy", to)
	return err
}

// in runs a command in a folder and returns what it prints, as if git had no user and
// make no caller.
func in(dir, name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	for _, v := range os.Environ() {
		if name, _, _ := strings.Cut(v, "="); !strings.HasPrefix(name, "GIT_") && !strings.HasPrefix(name, "MAKE") && name != "MFLAGS" {
			cmd.Env = append(cmd.Env, v)
		}
	}
	cmd.Env = append(cmd.Env, "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null",
		"GIT_AUTHOR_NAME=test", "GIT_AUTHOR_EMAIL=test@example.org", "GIT_AUTHOR_DATE="+date,
		"GIT_COMMITTER_NAME=test", "GIT_COMMITTER_EMAIL=test@example.org", "GIT_COMMITTER_DATE="+date)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("in %s: %s: %w\n%s", dir, cmd, err, out)
	}
	return strings.TrimSpace(string(out)), nil
}
