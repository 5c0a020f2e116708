// Package integration drives the built binary as a runtime does, with cnitool
// and real main plugins, in networks of package nettest, and looks at what
// arrives where.
package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// bin holds egress-ip, cnitool and the reference plugins.
var bin string

func TestMain(m *testing.M) {
	if os.Getenv(refusalVariable) != "" {
		fmt.Fprintln(os.Stderr, runRefused())
		os.Exit(3)
	}
	if err := build(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// build makes what `make build tools` makes, so that `go test` alone never
// drives a binary that is older than the code. A guest has no Go: there it is
// in the directory that the environment names.
func build() error {
	if bin = os.Getenv("EGRESS_IP_TEST_BIN"); bin != "" {
		return nil
	}
	var err error
	if bin, err = filepath.Abs("../bin"); err != nil {
		return err
	}
	cmd := exec.Command("make", "-s", "-C", "..", "build", "tools")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", cmd, err, out)
	}
	return nil
}
