package integration

import (
	"bytes"
	"context"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
)

// TestPerson: what the binary says when a person calls it; in a namespace, for what
// it would do if it took a wrong command line for a right one.
func TestPerson(t *testing.T) {
	t.Parallel()
	node := nettest.New(t, "node")
	for name, tt := range map[string]struct {
		args           []string
		exit           int
		stdout, stderr string
	}{
		"nothing":           {nil, 2, "", "egress-ip version"},
		"help":              {[]string{"help"}, 0, "egress-ip resync ", ""},
		"-h":                {[]string{"-h"}, 0, "egress-ip version", ""},
		"version":           {[]string{"version"}, 0, "CNI 0.3.0 0.3.1 0.4.0 1.0.0 1.1.0", ""},
		"version -h":        {[]string{"version", "-h"}, 0, "usage: egress-ip version", ""},
		"version, too much": {[]string{"version", "now"}, 2, "", `unexpected argument "now"; see egress-ip version -h`},
		"unknown":           {[]string{"statsu"}, 2, "", `unknown command "statsu"; there are status, explain, resync, cleanup, install, uninstall, version and help`},
		"resync -h":         {[]string{"resync", "-h"}, 0, "usage: egress-ip resync [--watch", ""},
		"resync --help":     {[]string{"resync", "--watch", "--help"}, 0, "go on, and resync whenever", ""},
		"resync, too much":  {[]string{"resync", "now", "--watch"}, 2, "", `unexpected argument "now"; see egress-ip resync -h`},
		"resync, wrong":     {[]string{"resync", "--wacth"}, 2, "", "--wacth"},
		"cleanup -h":        {[]string{"cleanup", "-h"}, 0, "usage: egress-ip cleanup [--force]", ""},
		"cleanup, too much": {[]string{"cleanup", "all"}, 2, "", `unexpected argument "all"; see egress-ip cleanup -h`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), waitFor)
			defer cancel()
			cmd := exec.CommandContext(ctx, filepath.Join(bin, "egress-ip"), tt.args...)
			var stdout, stderr bytes.Buffer
			cmd.Stdout, cmd.Stderr = &stdout, &stderr
			_ = node.Run(cmd)
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
