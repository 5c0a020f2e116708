package integration

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
)

// TestInvariant2AddTrustsTheKernel attacks: foreign routes and rules are there before the first pod comes. An ADD that says success has
// made the pod leave by its link with its address; any other has said why, and the node is as before, with what was foreign.
func TestInvariant2AddTrustsTheKernel(t *testing.T) {
	t.Parallel()
	seed := newSeed(t)
	r := rand.New(rand.NewPCG(seed, 2))
	c := newCluster(t, nettest.LabOptions{SecondDefault: true, ThirdLink: true}, "1.0.0")
	c.masquerade(t)
	entry := egressIP(object{"probeSNAT": object{"mode": "never"}})
	entry["links"].([]object)[0]["duplicateCheck"] = false
	d := c.newDirect(t, "pod", "10.244.1.5", "fd00:10:244::5", entry)
	plain := c.newDirect(t, "plain", "10.244.1.6", "fd00:10:244::6", entry) // never added: what becomes of it is the foreign rules' work alone
	clean := c.state(t)
	added, refused := 0, 0
	for _, a := range slices.Concat(routeAttacks(r), ruleAttacks(r), routeAttacks(r), ruleAttacks(r)) {
		if strings.Contains(a.name, "deleted") || strings.Contains(a.name, "flushed") { // there is nothing yet
			continue
		}
		numbers := strings.NewReplacer("TABLE", c.table(t), "INDEX", fmt.Sprint(c.Node.Index(t, nettest.SecondLink)))
		end := a.strike(t, c, numbers, true)
		before := c.state(t)
		_, err := d.call(t, "ADD", both)
		if err == nil {
			added++
			for server, want := range map[string]string{nettest.ServerAskIPv4: egress4, nettest.ServerAskIPv6: egress6} {
				for _, network := range []string{"tcp", "udp"} {
					if _, err := plain.Ask(network, server); err != nil {
						continue // nobody's answers come back
					}
					saw, err := d.Ask(network, server)
					require.NoError(t, err, "%s: ADD has said success", a.name)
					require.Equal(t, want, saw.String(), "%s: ADD has said success", a.name)
				}
			}
			d.del(t)
		} else {
			refused++
			require.NoError(t, sameText(before, c.state(t)), "%s: ADD has said %v", a.name, err)
		}
		require.NoError(t, sameText(before, c.state(t)), a.name)
		end()
		require.NoError(t, sameText(clean, c.state(t)), a.name)
	}
	t.Logf("%d ADDs succeeded, %d were refused", added, refused)
	require.NotZero(t, added)
	require.NotZero(t, refused)
}
