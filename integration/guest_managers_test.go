//go:build guest

package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
)

// TestGuestManagers: programs that manage the network of a machine, run by systemd, do what they do to a node whose pods
// send all the while. No packet arrives with a wrong source, whatever they do. What they remove of egress-ip's, the
// watcher has written again a second after their last change. A plain pod goes on, too.
//
// The node is the guest itself, and systemd is its process 1.
func TestGuestManagers(t *testing.T) {
	g := newManaged(t)
	g.install(t)
	for _, m := range managers() {
		t.Run(m.name, func(t *testing.T) { m.manage(t, g) })
	}
}

// healsWithin is how long after somebody's last change all is as it was: a second, and ten times that in a guest, whose processor is emulated.
const healsWithin = 10 * time.Second

// manager is a program, with what it does to the node.
type manager struct {
	name  string
	files map[string]string // that it reads, by path
	// settled waits until the program has done what it has been told to; nil: it has, as soon as it says so.
	settled func(t *testing.T, g *managed)
	acts    []act
	end     []string // commands after all
}

// act is something that a manager is told to do.
type act struct {
	name     string
	files    map[string]string // written before; an empty one is removed
	commands []string
	after    outcome
}

// outcome is what there is to see once a manager has acted.
type outcome int

const (
	healed  outcome = iota // it has removed something of egress-ip's, which is there again
	left                   // it has removed nothing of egress-ip's
	either                 // one of these
	refused                // it refuses to forward what pods send
)

// managed is the guest, with an annotated and a plain pod that send all the while.
type managed struct {
	*cluster
	annotated, plain *pod
	flows            *flows
	changes          *changes
}

// newManaged makes what is around the guest, and has systemd-networkd configure its links.
func newManaged(t *testing.T) *managed {
	t.Helper()
	write(t, map[string]string{
		// Or udev would give veths other hardware addresses, once they exist.
		"/run/systemd/network/10-lab.link": "[Match]\nOriginalName=*\n[Link]\nNamePolicy=keep\nMACAddressPolicy=none\n",
	})
	require.NoError(t, exec.Command("udevadm", "control", "--reload").Run())
	g := &managed{cluster: &cluster{Lab: nettest.NewGuestLab(t), dir: "/etc/cni/net.d", network: "net"}}
	serveDHCP(t, g.Router)
	write(t, networkdFiles())
	write(t, nftablesFiles())
	trimFirewalld(t)
	systemctl(t, "start", "dbus.socket", "systemd-networkd", "nftables")
	awaitConfigured(t, g)
	return g
}

// install installs egress-ip as on any node: its entry, its service, and pods.
func (g *managed) install(t *testing.T) {
	t.Helper()
	g.forgetAfter(t)
	require.NoError(t, os.MkdirAll(g.dir, 0o755))
	main := bridge(t, "")
	delete(main, "ipMasqBackend")
	main["ipMasq"] = false // the masquerade is nftables.service's
	g.configure(t, "1.0.0", main)
	g.command(t, filepath.Join(bin, "egress-ip"), "install", "--link", nettest.SecondLink,
		"--allow", "payments=192.168.124.96/28,fd00:124::90/124", "--cluster-cidr", "10.244.0.0/16", "--cluster-cidr", "fd00:10:244::/56")
	unit, err := os.ReadFile(unitFile)
	require.NoError(t, err)
	write(t, map[string]string{"/etc/systemd/system/egress-ip.service": string(unit)})
	systemctl(t, "daemon-reload")
	systemctl(t, "start", "egress-ip")
	g.annotated, g.plain = g.add(t, both), g.add(t, nil)
	g.changes = watchChanges(t)
	g.flows = startFlows(t, g.cluster, g.annotated, g.plain)
	g.await(t, time.Now(), act{after: left})
}

func (m manager) manage(t *testing.T, g *managed) {
	write(t, m.files)
	for _, a := range m.acts {
		t.Run(a.name, func(t *testing.T) {
			began := time.Now()
			write(t, a.files)
			g.run(t, a.commands)
			if m.settled != nil {
				m.settled(t, g)
			}
			g.await(t, began, a)
		})
	}
	g.run(t, m.end)
}

// run runs commands, one after the other.
func (g *managed) run(t *testing.T, commands []string) {
	t.Helper()
	for _, command := range commands {
		args := strings.Fields(command)
		g.command(t, args[0], args[1:]...)
	}
}

// quiet is for how long nobody has changed anything when a manager has done all that it does.
const quiet = 100 * time.Millisecond

// await waits until a manager has done all that it does, and judges what has become of the flows.
func (g *managed) await(t *testing.T, began time.Time, a act) {
	t.Helper()
	for ; ; time.Sleep(pace) {
		g.flows.look()
		now := time.Now()
		others, own := g.changes.since(began)
		last := began
		if len(others) > 0 {
			last = others[len(others)-1].at
		}
		from := last
		if a.after == refused {
			from = last.Add(nettest.Within(quiet)) // what is under way arrives
		}
		missing, figures := g.flows.missing(began, from, now)
		isQuiet := now.After(from.Add(nettest.Within(quiet))) && (a.after != healed || len(own) > 0) // some act after they have said so
		if isQuiet && (len(missing) == 0 || a.after == refused) || now.After(last.Add(healsWithin)) {
			fmt.Printf("| %-60s %s\n", strings.TrimPrefix(t.Name(), "TestGuestManagers/"), figures)
			g.judge(t, a, missing, texts(others), texts(own))
			return
		}
	}
}

// judge fails the test if anything is not as it should be after an act.
func (g *managed) judge(t *testing.T, a act, missing, others, own []string) {
	t.Helper()
	g.flows.requireNoneWrong(t)
	if a.after == refused {
		require.Len(t, missing, len(g.flows.all), "only these are refused: %v", missing)
	} else if len(missing) > 0 {
		require.Fail(t, "not healed", "of these nothing has arrived since the last change:\n%s\nchanges:\n%s\negress-ip has written:\n%s\n%s",
			strings.Join(missing, "\n"), strings.Join(others, "\n"), strings.Join(own, "\n"), g.state(t))
	}
	switch a.after {
	case healed:
		require.NotEmpty(t, own, "it has removed nothing of egress-ip's")
	case left:
		require.Empty(t, own, "it has removed something of egress-ip's")
	}
}

func texts(all []noticed) []string {
	var texts []string
	for _, c := range all {
		texts = append(texts, c.at.Format("05.000 ")+c.what)
	}
	return texts
}

// write writes files, with directories; one without content is removed.
func write(t *testing.T, files map[string]string) {
	t.Helper()
	for path, content := range files {
		if content == "" {
			require.NoError(t, os.Remove(path))
			continue
		}
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
		require.NoError(t, os.Chmod(path, modeOf(path)))
	}
}

// modeOf: NetworkManager reads connections that are root's alone, and systemd-networkd is not root.
func modeOf(path string) os.FileMode {
	if strings.HasSuffix(path, ".nmconnection") {
		return 0o600
	}
	return 0o644
}

func systemctl(t *testing.T, args ...string) {
	t.Helper()
	out, err := exec.Command("systemctl", args...).CombinedOutput()
	if err != nil {
		journal, _ := exec.Command("journalctl", "--no-pager", "--lines", "50").CombinedOutput()
		require.NoError(t, err, "systemctl %s: %s\n%s", strings.Join(args, " "), out, journal)
	}
}
