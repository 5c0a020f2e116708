package nettest

import (
	"os/exec"
)

// Start starts the process inside the namespace. The caller waits for it; what still runs at Cleanup is killed.
func (n *Namespace) Start(t T, cmd *exec.Cmd) error {
	t.Helper()
	if err := n.inside(cmd.Start); err != nil {
		return err
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() }) // the error says that it has ended already
	return nil
}

// Run starts the process inside the namespace and waits for it; the error is that of cmd.Run.
func (n *Namespace) Run(cmd *exec.Cmd) error {
	// A process inherits the namespace of the thread that forks it; only Start has to be inside.
	if err := n.inside(cmd.Start); err != nil {
		return err
	}
	return cmd.Wait()
}
