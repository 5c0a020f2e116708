package kernels

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"strings"
	"testing"
	"time"
)

// group is what one command runs in a guest: the tests of a package, or a program.
type group struct {
	name    string
	pkg     string            // the package's directory in the repository
	tests   string            // which of them, a pattern; empty is all
	program bool              // the package is a program: its exit status counts
	args    string            // of the program, whose output is printed if it has any
	limit   time.Duration     // for all of it
	skips   map[string]string // tests that may skip, and why there is no other way
}

// command is the group's line in the guest's plan.
func (g group) command(arch string) string {
	binary := path.Join(inGuest, arch, path.Base(g.pkg))
	if g.program {
		return fmt.Sprintf("group %s /tmp %s %s\n", g.name, binary, g.args)
	}
	return fmt.Sprintf("group %s /src/%s %s.test -test.v=test2json -test.cpu 2 -test.parallel 4 -test.timeout %s -test.run '%s'\n", g.name, g.pkg, binary, g.limit, g.tests)
}

// report makes a subtest of each test of the group, when it has ended.
func (g group) report(t *testing.T, lines *lines) {
	t.Helper()
	if g.program {
		var output strings.Builder
		to := io.Writer(&output)
		if g.args != "" {
			to = os.Stdout
		}
		if status := g.copy(lines, to); status != "0" {
			t.Fatalf("exit status %s:\n%s", status, &output)
		}
		return
	}
	convert := exec.Command("go", "tool", "test2json")
	in, err := convert.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := convert.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := convert.Start(); err != nil {
		t.Fatal(err)
	}
	status := make(chan string, 1)
	go func() {
		defer in.Close()
		status <- g.copy(lines, in)
	}()
	tests := results{"": {}}
	for events := json.NewDecoder(out); ; {
		var e event
		if err := events.Decode(&e); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if tests.add(e); e.ended() && e.Test != "" && path.Dir(e.Test) == "." {
			g.result(t, tests, "", e.Test)
		}
	}
	if err := convert.Wait(); err != nil {
		t.Error(err)
	}
	for _, name := range tests[""].children { // the program has ended before them
		if tests[name].action == "" {
			g.result(t, tests, "", name)
		}
	}
	if status := <-status; status != "0" {
		t.Errorf("exit status %s:\n%s", status, &tests[""].output)
	} else if len(tests[""].children) == 0 {
		t.Errorf("%s has no test that matches %q", g.pkg, g.tests)
	}
}

// copy copies what the group prints, and returns its exit status, if it has come to that.
func (g group) copy(lines *lines, to io.Writer) string {
	for lines.Scan() {
		if status, found := strings.CutPrefix(lines.Text(), "@@ end "+g.name+" "); found {
			return status
		}
		if _, err := fmt.Fprintln(to, lines.Text()); err != nil {
			return err.Error()
		}
	}
	return "none: the guest has ended"
}

// result reports a test that has ended, with those inside it. What skips must be known to.
func (g group) result(t *testing.T, tests results, parent, name string) {
	t.Helper()
	r := tests[name]
	t.Run(strings.TrimPrefix(name, parent+"/"), func(t *testing.T) {
		for _, child := range r.children {
			g.result(t, tests, name, child)
		}
		t.Logf("in the guest:\n%s", &r.output)
		for line := range strings.Lines(r.output.String()) {
			if strings.HasPrefix(line, "| ") { // a figure that is worth knowing though the test passes
				fmt.Print(line)
			}
		}
		switch why, known := g.skips[name]; {
		case r.action == "skip" && known:
			fmt.Printf("%s skips: %s\n", name, why)
		case r.action == "skip":
			t.Error("skipped, which the table of groups does not have")
		case known:
			t.Error("has not skipped, as the table of groups has it")
		case r.action == "":
			t.Error("has not ended")
		case r.action != "pass":
			t.Error("failed")
		}
	})
}

// event is what test2json makes of a line.
type event struct {
	Action, Test, Output string
}

func (e event) ended() bool { return e.Action == "pass" || e.Action == "fail" || e.Action == "skip" }

// results are those of a program's tests, by their names; the empty name is the program's.
type results map[string]*result

type result struct {
	children []string
	output   strings.Builder
	action   string // pass, fail or skip, once it has ended
}

func (r results) add(e event) {
	if r[e.Test] == nil {
		r[e.Test] = &result{}
		parent := ""
		for at := strings.LastIndex(e.Test, "/"); at >= 0 && parent == ""; at = strings.LastIndex(e.Test[:at], "/") {
			if r[e.Test[:at]] != nil { // a test's own name may have a slash
				parent = e.Test[:at]
			}
		}
		r[parent].children = append(r[parent].children, e.Test)
	}
	test := r[e.Test]
	test.output.WriteString(e.Output)
	if e.ended() {
		test.action = e.Action
	}
}
