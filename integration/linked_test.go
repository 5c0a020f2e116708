package integration

import (
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestLinked: packages whose initialisation every CNI call would pay for are not
// in the binary; that tests use some of them is no matter.
func TestLinked(t *testing.T) {
	t.Parallel()
	out, err := exec.Command("go", "list", "-deps", "../plugins/egress-ip").Output()
	require.NoError(t, err)
	linked := strings.Fields(string(out))
	require.Contains(t, linked, "github.com/spf13/pflag")
	for _, dear := range []string{"net/http", "crypto/tls", "google.golang.org/protobuf", "github.com/prometheus"} {
		require.False(t, slices.ContainsFunc(linked, func(p string) bool { return p == dear || strings.HasPrefix(p, dear+"/") }), dear)
	}
}
