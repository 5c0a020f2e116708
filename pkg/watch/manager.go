package watch

import (
	"fmt"
	"log/slog"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// Manager is the service manager, if there is one, which is told how things are.
type Manager struct {
	// Notify tells it one of sd_notify's states: READY=1 once a resync has
	// succeeded, WATCHDOG=1 twice every Watchdog, STOPPING=1 at the end.
	Notify func(state string)

	// Watchdog is how long it waits for a sign of life; 0 is for ever.
	Watchdog time.Duration
}

// Systemd is the manager that the environment names, in NOTIFY_SOCKET and
// WATCHDOG_USEC; without them it is told nothing.
func Systemd() (Manager, error) {
	watchdog, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		return Manager{}, fmt.Errorf("read WATCHDOG_USEC or WATCHDOG_PID, which systemd sets: %w", err)
	}
	return Manager{Notify: notify, Watchdog: watchdog}, nil
}

func notify(state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		slog.Warn("could not tell the service manager", "state", state, "error", err)
	}
}
