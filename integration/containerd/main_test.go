// Package containerd drives the built binary by containerd and runc, over CRI as a kubelet
// does, with the reference plugins before it in the conflist. Each test has a node of its
// own: network, mount and PID namespaces with their own containerd, of which nothing is
// left when the test ends or is killed.
package containerd

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// built is what all tests use and none changes.
var built struct {
	plugins string // folder of egress-ip and the reference plugins, as `make build tools` leaves them
	newer   string // egress-ip again, with newerVersion
	machine string // the first process of a node, see machine/main.go
	pod     string // the program in the pods' image
	image   string // archive of that image
}

// newerVersion is what the newer binary calls itself.
const newerVersion = "v99.0.0-newer"

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "egress-ip-containerd")
	if err == nil {
		defer os.RemoveAll(dir)
		err = build(dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

func build(dir string) (err error) {
	root, err := filepath.Abs("../..")
	if err != nil {
		return err
	}
	built.plugins = filepath.Join(root, "bin")
	built.newer = filepath.Join(dir, "newer")
	built.machine = filepath.Join(dir, "machine")
	built.pod = filepath.Join(dir, "pod")
	built.image = filepath.Join(dir, "pod.tar")
	for _, args := range [][]string{
		{"make", "-s", "-C", root, "build", "tools"},
		{"go", "build", "-C", root, "-ldflags", "-X main.version=" + newerVersion, "-o", built.newer, "./plugins/egress-ip"},
		{"go", "build", "-o", built.machine, "./machine"},
		{"go", "build", "-o", built.pod, "./pod"},
	} {
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w\n%s", cmd, err, out)
		}
	}
	return writeImage(built.image, built.pod)
}
