package integration

import (
	"bytes"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestPerson: what the binary says when a person calls it.
func TestPerson(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		args           []string
		exit           int
		stdout, stderr string
	}{
		"nothing":           {nil, 2, "", "egress-ip version"},
		"help":              {[]string{"help"}, 0, "egress-ip version", ""},
		"-h":                {[]string{"-h"}, 0, "egress-ip version", ""},
		"version":           {[]string{"version"}, 0, "CNI 0.3.1 0.4.0 1.0.0 1.1.0", ""},
		"version -h":        {[]string{"version", "-h"}, 0, "usage: egress-ip version", ""},
		"version, too much": {[]string{"version", "now"}, 2, "", `"now"`},
		"unknown":           {[]string{"state"}, 2, "", `unknown command "state"; there are status, explain, resync, cleanup, version and help`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cmd := exec.Command(filepath.Join(bin, "egress-ip"), tt.args...)
			var stdout, stderr bytes.Buffer
			cmd.Stdout, cmd.Stderr = &stdout, &stderr
			_ = cmd.Run()
			require.Equal(t, tt.exit, cmd.ProcessState.ExitCode())
			for _, out := range []struct{ have, want string }{{stdout.String(), tt.stdout}, {stderr.String(), tt.stderr}} {
				if out.want == "" {
					require.Empty(t, out.have)
				}
				require.Contains(t, out.have, out.want)
			}
		})
	}
}
