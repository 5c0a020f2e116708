package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
)

// scope is the [nettest.T] of the benchmark: what is made in it stands until it
// ends, however it ends.
type scope struct {
	ctx context.Context // done when a signal says to stop

	mu       sync.Mutex
	errs     []error
	cleanups []func()
}

// within runs f in a scope, on a goroutine of its own, which Fatalf can end, and
// takes away what f has made.
func within(ctx context.Context, f func(*scope)) error {
	s := &scope{ctx: ctx}
	s.run(func() { f(s) })
	for {
		s.mu.Lock()
		last := len(s.cleanups) - 1
		if last < 0 {
			s.mu.Unlock()
			return errors.Join(s.errs...)
		}
		cleanup := s.cleanups[last]
		s.cleanups = s.cleanups[:last]
		s.mu.Unlock()
		s.run(cleanup)
	}
}

func (s *scope) run(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() {
			if p := recover(); p != nil { // the namespaces must go all the same
				s.fail(fmt.Errorf("panic: %v\n%s", p, debug.Stack()))
			}
		}()
		f()
	}()
	<-done
}

func (s *scope) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.errs = append(s.errs, err)
}

// Fatalf ends the scope, which then fails with the message.
func (s *scope) Fatalf(format string, args ...any) {
	s.fail(fmt.Errorf(format, args...))
	runtime.Goexit()
}

// must is Fatalf for an error, if there is one.
func (s *scope) must(err error) {
	if err != nil {
		s.Fatalf("%w", err)
	}
}

// Logf writes beside the result.
func (s *scope) Logf(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "bench: "+format+"\n", args...)
}

// Helper is for tests; messages here have no line numbers.
func (s *scope) Helper() {}

// Cleanup has f called at the end, the last one first.
func (s *scope) Cleanup(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cleanups = append(s.cleanups, f)
}
