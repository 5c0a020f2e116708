// Package kernels runs tests on Debian's kernels, in emulated guests: other versions than the machine's, with
// links and modules that it may not have, and systemd. Each test in a guest is a subtest here.
package kernels

import (
	"cmp"
	"flag"
	"fmt"
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

// A kernel is a directory of the machine, and what runs there, a guest at a time.
type kernel struct {
	name, arch string
	guests     []guest
}

var kernels = []kernel{
	{"6.1", "amd64", guests},
	{"6.12", "amd64", guests},
	{"6.1-arm64", "arm64", others},
}

// guests is what kernels of the machine's own architecture run. A group is a line. What needs modules first is one test, and
// not four at a time: a module takes the kernel a tenth of a second there for each who asks for it.
var guests = []guest{
	{boots: [][]group{{
		{name: "demo", pkg: "integration/demo", program: true, limit: 3 * time.Minute},
		{name: "kernel", pkg: "pkg/kernel", limit: 3 * time.Minute, tests: "^Test(DeleteConntrack|Dump|Events.*|LostEvents|Invariant8BatchIsWhole|ReadRules|ReadsAreConsistent|RoutesOfOthers|RouteBothWays|TableOfMaster)$"},
		{name: "nettest", pkg: "pkg/nettest", limit: 3 * time.Minute, tests: "^Test(Frames.*|CaptureSaysWhatItLost|LabForwards|AskLinkLocal)$"},
		{name: "names", pkg: "pkg/names", limit: 3 * time.Minute},
		{name: "watch", pkg: "pkg/watch", tests: "^TestClaim$", limit: 3 * time.Minute},
		{name: "watcher", pkg: "integration", tests: "^TestGuestWatch$", limit: 3 * time.Minute},
		{name: "vrf", pkg: "integration", tests: "^TestGuestVRF", limit: 3 * time.Minute},
		{name: "ipvs", pkg: "integration", tests: "^TestGuestIPVS", limit: 3 * time.Minute},
		{name: "routes", pkg: "integration", limit: 10 * time.Minute, tests: "^Test(Table|TableBypass|NextHopObjects|SourceRoutes|OneFamily|WithoutIPv6)$"},
		{name: "packets", pkg: "integration", limit: 10 * time.Minute, tests: "^Test(Guard|FailClosed|SourceCheck|LatePackets|MarkOfLink|Conntrack|Probe|Inbound|PathMTUAtNode|Flush|FormerTable)$"},
		{name: "filters", pkg: "integration", limit: 10 * time.Minute, tests: "^Test(ReversePath|SrcValidMark)$/^(all_1|all_2|PODLINK_1,_all_0|strict,_both_families|off,_set_by_somebody|loose|a_link_without_a_default_route)$"},
		{name: "disasters", pkg: "integration", limit: 10 * time.Minute, tests: "^Test(Resync|WatchHeals)$/^everything,_links_made_anew$"},
	}}},
	{systemd: true, boots: [][]group{{
		{name: "managers", pkg: "integration", tests: "^TestGuestManagers$", limit: 10 * time.Minute},
	}}},
	{boots: [][]group{
		{
			{name: "before-reboot", pkg: "integration", tests: "^TestBeforeReboot$", limit: 3 * time.Minute},
			{name: "links", pkg: "integration", tests: "^TestGuestLink", limit: 10 * time.Minute},
		},
		{{name: "after-reboot", pkg: "integration", tests: "^TestAfterReboot$", limit: 3 * time.Minute}},
	}},
}

// others is what kernels of other architectures run: what depends on the order of bytes and the size of numbers, and
// what meets a kernel without other programs.
var others = []guest{
	{boots: [][]group{{
		{name: "config", pkg: "pkg/config", limit: 3 * time.Minute},
		{name: "conflist", pkg: "pkg/conflist", limit: 3 * time.Minute},
		{name: "values", pkg: "pkg/egress", limit: 3 * time.Minute},
		{name: "record", pkg: "pkg/record", limit: 3 * time.Minute},
		{name: "status", pkg: "pkg/status", limit: 3 * time.Minute},
		{name: "lock", pkg: "pkg/lock", limit: 3 * time.Minute},
		{name: "kernel", pkg: "pkg/kernel", tests: "^(TestAnswer|TestDeleteConntrack|TestDump|TestInvariant8BatchIsWhole|TestRouteBothWays|Fuzz.*)$", limit: 3 * time.Minute},
		{name: "demo", pkg: "integration/demo", program: true, limit: 3 * time.Minute},
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

// prepare makes the machine's disks where they do not exist.
func prepare() (err error) {
	if repository, err = filepath.Abs("../.."); err != nil {
		return err
	}
	if *machine, err = filepath.Abs(*machine); err != nil {
		return err
	}
	run = filepath.Join(repository, "integration/kernels/.run")
	if err := os.RemoveAll(run); err != nil {
		return err
	}
	began := time.Now()
	if err := execute(nil, "./machine.sh", *machine); err != nil {
		return err
	}
	fmt.Printf("machine: ready in %s\n", since(began))
	return nil
}

// build makes what runs in the kernel's guests.
func (k kernel) build() error {
	const reference = "github.com/containernetworking/plugins/plugins"
	tools := []string{"github.com/containernetworking/cni/cnitool"}
	for _, plugin := range []string{"main/bridge", "main/ptp", "main/loopback", "ipam/host-local", "ipam/static", "meta/bandwidth", "meta/firewall", "meta/portmap", "meta/tuning"} {
		tools = append(tools, reference+"/"+plugin)
	}
	var programs, tests []string
	for _, g := range k.guests {
		for _, group := range slices.Concat(g.boots...) {
			if group.program {
				programs = append(programs, "./"+group.pkg)
			} else if !slices.Contains(tests, "./"+group.pkg) {
				tests = append(tests, "./"+group.pkg)
			}
		}
	}
	dir := filepath.Join(run, k.arch)
	bin := []string{"build", "-ldflags", "-s -w", "-o", filepath.Join(dir, "bin") + "/"}
	for _, build := range []struct {
		module string
		args   []string
	}{
		{".", append(slices.Clone(bin), "./plugins/egress-ip")},
		{"integration/tools", append(slices.Clone(bin), tools...)},
		{".", append([]string{"build", "-o", dir + "/"}, programs...)},
		{".", append([]string{"test", "-tags", "guest", "-c", "-o", dir + "/"}, tests...)},
	} {
		args := append([]string{build.args[0], "-C", filepath.Join(repository, build.module)}, build.args[1:]...)
		if err := execute([]string{"CGO_ENABLED=0", "GOARCH=" + k.arch}, "go", args...); err != nil {
			return err
		}
	}
	return nil
}

// execute runs a command of the host's.
func execute(env []string, name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", cmd, err, out)
	}
	return nil
}

func TestKernels(t *testing.T) {
	for _, k := range kernels {
		t.Run(k.name, func(t *testing.T) {
			began := time.Now()
			if err := k.build(); err != nil {
				t.Fatal(err)
			}
			fmt.Printf("%s: built in %s\n", k.name, since(began))
			for _, g := range k.guests {
				if g, any := g.chosen(t); any {
					g.run(t, k)
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
