package containerd

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
)

// recorder stands in for a plugin, writes down what each call gets, and hands it on.
const recorder = `#!/bin/sh
stdin=$(cat)
case $stdin in *'"prevResult":{'*) result=result ;; *) result='no result' ;; esac
case $CNI_NETNS in '') netns='no namespace' ;; *) netns=namespace ;; esac
echo "$CNI_COMMAND, $netns, $result" >>'%[1]s'
printf %%s "$stdin" | '%[2]s'
`

// recordCalls records the calls of egress-ip from now on. The function returns those since
// it was last called, in their order: "DEL, no namespace, no result".
func (d disk) recordCalls(t *testing.T) func() []string {
	t.Helper()
	plugin, calls := filepath.Join(d.path("bin"), "egress-ip"), d.path("calls")
	require.NoError(t, os.Rename(plugin, plugin+".recorded"))
	nettest.WriteProgram(t, plugin, fmt.Appendf(nil, recorder, calls, plugin+".recorded"))
	return func() []string {
		content, err := os.ReadFile(calls)
		require.NoError(t, err)
		require.NoError(t, os.Remove(calls))
		return strings.Split(strings.TrimSuffix(string(content), "\n"), "\n")
	}
}
