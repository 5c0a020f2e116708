// Package kernels runs tests on Debian's kernels, in emulated guests: other versions than the machine's, with
// links and modules that it may not have, and systemd. Each test in a guest is a subtest here.
package kernels

import (
	"cmp"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"testing"
	"time"
)

var (
	machine = flag.String("machine", ".machine", "directory of the kernels and the root disk; made where it does not exist")
	only    = flag.String("group", "", "run only the groups that match this pattern")
	tests   = flag.String("tests", "", "run only the tests of them that match this pattern")
)

var kernels = []string{"6.1", "6.12"}

// guests is what each kernel runs, a guest at a time. A group is a line.
var guests = []guest{
	{boots: [][]group{{
		{name: "kernel", pkg: "pkg/kernel", limit: time.Minute},
		{name: "nettest", pkg: "pkg/nettest", limit: time.Minute},
		{name: "names", pkg: "pkg/names", limit: time.Minute},
		{name: "watch", pkg: "pkg/watch", limit: time.Minute},
		{name: "demo", pkg: "integration/demo", program: true, limit: time.Minute},
	}}},
}

// Where the sources are, and what of them runs in guests.
var repository, run string

func TestMain(m *testing.M) {
	flag.Parse()
	if err := prepare(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// prepare makes the machine's disks where they do not exist, and all programs.
func prepare() (err error) {
	if repository, err = filepath.Abs("../.."); err != nil {
		return err
	}
	if *machine, err = filepath.Abs(*machine); err != nil {
		return err
	}
	run = filepath.Join(repository, "integration/kernels/.run")
	if err := os.MkdirAll(filepath.Join(run, "bin"), 0o755); err != nil {
		return err
	}
	began := time.Now()
	for _, args := range append(builds(), []string{"./machine.sh", *machine}) {
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w\n%s", cmd, err, out)
		}
	}
	fmt.Printf("Guests prepared in %s\n", since(began))
	return nil
}

// builds are the commands that make what runs in guests.
func builds() [][]string {
	packages := map[string]bool{}
	programs := []string{"go", "build", "-C", repository, "-o", run + "/"}
	for _, g := range guests {
		for _, group := range slices.Concat(g.boots...) {
			if group.program {
				programs = append(programs, "./"+group.pkg)
			} else {
				packages["./"+group.pkg] = true
			}
		}
	}
	return [][]string{
		{"make", "-s", "-C", repository, "build", "tools"},
		{"cp", "-rT", filepath.Join(repository, "bin"), filepath.Join(run, "bin")},
		programs,
		slices.AppendSeq([]string{"go", "test", "-C", repository, "-tags", "guest", "-c", "-o", run + "/"}, maps.Keys(packages)),
	}
}

func TestKernels(t *testing.T) {
	for _, kernel := range kernels {
		t.Run(kernel, func(t *testing.T) {
			for _, g := range guests {
				if g, any := g.chosen(t); any {
					g.kernel = kernel
					g.run(t)
				}
			}
		})
	}
}

// chosen is the guest with the groups that were asked for, if it has any.
func (g guest) chosen(t *testing.T) (guest, bool) {
	t.Helper()
	pattern, err := regexp.Compile(*only)
	if err != nil {
		t.Fatal(err)
	}
	any := false
	g.boots = slices.Clone(g.boots)
	for i := range g.boots {
		g.boots[i] = slices.Clone(g.boots[i])
		g.boots[i] = slices.DeleteFunc(g.boots[i], func(group group) bool { return !pattern.MatchString(group.name) })
		for j := range g.boots[i] {
			g.boots[i][j].tests = cmp.Or(*tests, g.boots[i][j].tests)
			any = true
		}
	}
	return g, any
}
