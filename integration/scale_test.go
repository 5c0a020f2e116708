package integration

import (
	"fmt"
	"os"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
)

// numbered is the call for one of many pods of which there is nothing but the
// attachment; a number is a pod. Fourteen share each pair of egress addresses.
func numbered(t testing.TB, command, sandbox string, number int, families ...int) call {
	t.Helper()
	var addresses, wants []string
	for _, family := range families {
		if family == 4 {
			addresses = append(addresses, fmt.Sprintf("10.244.%d.%d", 16+number/200, 1+number%200))
			wants = append(wants, fmt.Sprintf("192.168.124.%d", 97+number%14))
		} else {
			addresses = append(addresses, fmt.Sprintf("fd00:10:244::16:%x", 1+number))
			wants = append(wants, fmt.Sprintf("fd00:124::9%x", 1+number%14))
		}
	}
	return call{
		command, fmt.Sprintf("numbered-%d", number), sandbox,
		request(t, noProbe, address(strings.Join(wants, ",")), addresses...), "K8S_POD_NAMESPACE=payments;K8S_POD_NAME=pod",
	}
}

// ofNumbered finds what belongs to one numbered pod: a line of state, or a part of it.
var ofNumbered = regexp.MustCompile(`10\.244\.(1[6-9]|2\d)\.\d+|fd00:10:244::16:[0-9a-f]+|numbered-\d+:`)

// objects counts what a state has of each kind that there is one of for each
// numbered pod. The rest is the state without those.
func objects(state string) (counts map[string]int, rest string) {
	counts = map[string]int{}
	section, group := "", ""
	var others []string
	for line := range strings.Lines(state) {
		if strings.HasPrefix(line, "# ") {
			section, group = strings.TrimSpace(line[2:]), ""
		}
		if name, ok := strings.CutPrefix(line, "\tmap "); ok {
			group = " map " + strings.Fields(name)[0]
		}
		if section == "record" {
			group = " " + regexp.MustCompile(`^/[a-z]*`).FindString(line)
		}
		of := ofNumbered.FindAllString(line, -1)
		if len(of) == 0 {
			others = append(others, line)
			continue
		}
		kind, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		if !strings.Contains(section, "route") {
			kind = ""
		}
		counts[strings.TrimSpace(section+group+" "+kind)] += len(of)
	}
	return counts, strings.Join(others, "")
}

// each calls f for the numbers from first to one before last, with so many at once,
// and returns the errors.
func each(first, last, workers int, f func(number int) error) []error {
	numbers := make(chan int)
	var mu sync.Mutex
	var errs []error
	var running sync.WaitGroup
	for range workers {
		running.Go(func() {
			for n := range numbers {
				if err := f(n); err != nil {
					mu.Lock()
					errs = append(errs, fmt.Errorf("%d: %w", n, err))
					mu.Unlock()
				}
			}
		})
	}
	for n := first; n < last; n++ {
		numbers <- n
	}
	close(numbers)
	running.Wait()
	return errs
}

// cost of a call.
type cost struct{ cpu, wall time.Duration }

// measured makes a call and says what it cost.
func (c *cluster) measured(t *testing.T, call call) cost {
	t.Helper()
	cmd := pluginCommand(call)
	cmd.Stderr = os.Stderr
	start := time.Now()
	require.NoError(t, c.Node.Run(cmd))
	return cost{cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(), time.Since(start)}
}

func medians(costs []cost) string {
	var cpu, wall []time.Duration
	for _, c := range costs {
		cpu, wall = append(cpu, c.cpu), append(wall, c.wall)
	}
	return fmt.Sprintf("%s CPU, %s", median(cpu).Round(100*time.Microsecond), median(wall).Round(100*time.Microsecond))
}

// TestScale: with 1,000 attachments an ADD and a DEL cost what they cost with
// none, and 1,000 attachments are 1,000 of each object that a pod has of its own.
func TestScale(t *testing.T) {
	t.Parallel()
	c := newNode(t)
	sandbox := nettest.New(t, "sandbox").Path()
	before := c.state(t)
	const sample, many = 20, 1000
	ends := func(first int) (adds, dels []cost) {
		for n := first; n < first+sample; n++ {
			adds = append(adds, c.measured(t, numbered(t, "ADD", sandbox, n, 4)))
		}
		for n := first; n < first+sample; n++ {
			dels = append(dels, c.measured(t, numbered(t, "DEL", sandbox, n, 4)))
		}
		// For the count, they are to stand.
		require.Empty(t, each(first, first+sample, runtime.NumCPU(), func(n int) error {
			_, err := c.plugin(numbered(t, "ADD", sandbox, n, 4))
			return err
		}))
		return adds, dels
	}
	addsAtNone, delsAtNone := ends(0)
	few, restOfFew := objects(c.state(t))
	require.Empty(t, each(sample, many, runtime.NumCPU(), func(n int) error {
		_, err := c.plugin(numbered(t, "ADD", sandbox, n, 4))
		return err
	}))
	addsAtMany, delsAtMany := ends(many)
	t.Logf("median of %d, none and %d attachments: ADD %s and %s; DEL %s and %s", sample, many,
		medians(addsAtNone), medians(addsAtMany), medians(delsAtNone), medians(delsAtMany))

	all, restOfAll := objects(c.state(t))
	require.Equal(t, restOfFew, restOfAll)
	for _, kind := range []string{"ip -d rule", "nft -s list ruleset map snat4", "ip -d route show table all throw"} {
		require.Equal(t, sample, few[kind], kind)
	}
	require.Len(t, all, len(few))
	for kind, count := range all {
		require.Zero(t, few[kind]%sample, kind)
		require.Equal(t, few[kind]/sample, count/(sample+many), kind)
		require.Zero(t, count%(sample+many), kind)
	}
	t.Logf("of each kind: %v", all)

	start := time.Now()
	_, err := c.plugin(call{command: "GC", stdin: gcStdin(t, "net", object{"cni.dev/valid-attachments": []object{}})})
	require.NoError(t, err)
	t.Logf("a GC that removes them all took %s", time.Since(start).Round(100*time.Millisecond))
	require.Equal(t, before, c.state(t))
}

// requirePerPod checks that each dual-stack pod has one object of each kind a family.
func requirePerPod(t *testing.T, state string, pods int) {
	t.Helper()
	counts, _ := objects(state)
	for kind, want := range map[string]int{
		"ip -d rule": pods, "ip -d -6 rule": pods,
		"ip -d route show table all throw": 2 * pods, // both families
		"nft -s list ruleset map snat4":    pods, "nft -s list ruleset map snat6": pods,
	} {
		require.Equal(t, want, counts[kind], "%s: %v", kind, counts)
	}
}
