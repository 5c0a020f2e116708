package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"sync"

	"golang.org/x/sys/unix"
)

// interrupted is the exit status of a shell's command that ^C has ended.
const interrupted = 128 + int(unix.SIGINT)

// teller prints the story, and takes away what was made for it, however the
// story ends. It is the [nettest.T] of the demo.
type teller struct {
	ctx      context.Context // done when a signal says to stop
	terminal bool

	mu       sync.Mutex
	failed   bool
	cleanups []func()
}

// tell runs a story and then its cleanups, and returns the exit status.
func tell(story func(*teller)) int {
	// SIGPIPE: with `make demo | head` a print fails, and that must not be the end
	// before the cleanups. The signals stay caught until the process ends.
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGPIPE)
	defer stop()
	t := &teller{ctx: ctx, terminal: isTerminal(os.Stdout)}
	t.run(func() { story(t) })
	cut := ctx.Err() != nil
	for {
		t.mu.Lock()
		last := len(t.cleanups) - 1
		if last < 0 {
			t.mu.Unlock()
			break
		}
		cleanup := t.cleanups[last]
		t.cleanups = t.cleanups[:last]
		t.mu.Unlock()
		t.run(cleanup)
	}
	switch {
	case cut:
		return interrupted
	case t.failed:
		return 1
	}
	return 0
}

// run calls f on a goroutine of its own, which Fatalf can end, and waits for it.
func (t *teller) run(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() {
			if p := recover(); p != nil {
				t.fail(fmt.Sprintf("panic: %v\n%s", p, debug.Stack()))
			}
		}()
		f()
	}()
	<-done
}

func (t *teller) fail(message string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.failed = true
	fmt.Fprintln(os.Stderr, "demo: FAILED:", message)
}

// Fatalf says what went wrong and ends the story.
func (t *teller) Fatalf(format string, args ...any) {
	t.fail(fmt.Sprintf(format, args...))
	runtime.Goexit()
}

// must is Fatalf for an error, if there is one.
func (t *teller) must(err error) {
	if err != nil {
		t.Fatalf("%v", err)
	}
}

// Logf writes beside the story.
func (t *teller) Logf(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "demo: "+format+"\n", args...)
}

// Helper is for tests; messages of the demo have no line numbers.
func (t *teller) Helper() {}

// Cleanup has f called at the end, however that comes, the last one first.
func (t *teller) Cleanup(f func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.cleanups = append(t.cleanups, f)
}

// print prints a line of the story; before that it looks whether the story is
// to go on. No step between two lines takes longer than a few seconds, and every
// one is whole, so what it has made is known to the cleanups.
func (t *teller) print(format string, args ...any) {
	t.goOn()
	if _, err := fmt.Printf(format+"\n", args...); err != nil {
		t.Fatalf("print the story: %v", err)
	}
}

// goOn ends the story if a signal has come.
func (t *teller) goOn() {
	if t.ctx.Err() != nil {
		fmt.Fprintln(os.Stderr, "demo: interrupted; cleaning up")
		runtime.Goexit()
	}
}

// heading begins an act.
func (t *teller) heading(text string) {
	t.print("")
	t.print("%s", t.bold(text))
}

// bold, good and bad are for terminals; elsewhere text stays what it is.
func (t *teller) bold(text string) string { return t.styled("1", text) }
func (t *teller) good(text string) string { return t.styled("32", text) }
func (t *teller) bad(text string) string  { return t.styled("31", text) }

func (t *teller) styled(code, text string) string {
	if !t.terminal {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
}
