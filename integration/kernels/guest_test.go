package kernels

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// guest is one start of the emulator.
type guest struct {
	systemd bool      // systemd is process 1, and the tests a service of it
	boots   [][]group // what runs at each boot; the disk keeps what was written, /run and /tmp do not
}

// startUp is how long a guest may take from its start to its first group, and to turn itself off.
const startUp = 2 * time.Minute

// slowness is how many times as long things may take in a guest, where the processor is emulated.
const slowness = 6

// inGuest is where guests have what was built for them.
const inGuest = "/src/integration/kernels/.run"

// run boots the guest and reports what it runs.
func (g guest) run(t *testing.T, k kernel) {
	limit := startUp
	for number, boot := range g.boots {
		limit += startUp
		for _, group := range boot {
			limit += group.limit
		}
		k.write(t, number, boot)
	}
	console := filepath.Join(run, "console")
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	first := "/src/integration/kernels/guest.sh"
	if g.systemd {
		first = "/sbin/init"
	}
	qemu := k.emulator(ctx, first, console)
	stdout, err := qemu.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	qemu.Stderr = os.Stderr
	if err := qemu.Start(); err != nil {
		t.Fatal(err)
	}
	lines := &lines{Scanner: bufio.NewScanner(stdout)}
	lines.Buffer(nil, 1<<20)
	for _, boot := range g.boots {
		k.follow(t, qemu.Process.Pid, lines, boot)
	}
	for lines.Scan() { // until it is off
	}
	err = qemu.Wait()
	if err == nil && !t.Failed() {
		return
	}
	printed, _ := os.ReadFile(console)
	t.Errorf("the guest with %s, which has %s: %v\n%s", k.name, limit, err, printed)
}

// write makes the guest's plan for one boot, and removes the former guest's.
func (k kernel) write(t *testing.T, number int, boot []group) {
	t.Helper()
	if number == 0 {
		former, _ := filepath.Glob(filepath.Join(run, "plan.*"))
		for _, plan := range former {
			_ = os.Remove(plan)
		}
	}
	// Of what a small program in Go takes there, a third goes to threads of it that look for work.
	plan := fmt.Sprintf("export EGRESS_IP_TEST_SLOWNESS=%d GOMAXPROCS=1\nprograms %s/bin\n", slowness, filepath.Join(inGuest, k.arch))
	for _, group := range boot {
		plan += group.command(k.arch)
	}
	if err := os.WriteFile(filepath.Join(run, fmt.Sprintf("plan.%d", number)), []byte(plan), 0o644); err != nil {
		t.Fatal(err)
	}
}

// emulators emulate a processor of each architecture, since not every machine lets guests use its own; and what
// their kernels call the console.
var emulators = map[string]struct {
	command []string
	console string
}{
	"amd64": {[]string{"qemu-system-x86_64", "-M", "q35", "-cpu", "Nehalem"}, "ttyS0"},
	"arm64": {[]string{"qemu-system-aarch64", "-M", "virt", "-cpu", "cortex-a72"}, "ttyAMA0"},
}

// emulator is the command that boots a guest; its kernel starts first. The root disk is as it was made, each time.
func (k kernel) emulator(ctx context.Context, first, console string) *exec.Cmd {
	dir := filepath.Join(*machine, k.name)
	emulator := emulators[k.arch]
	share := "local,security_model=none,readonly=on,multidevs=remap,mount_tag="
	args := append(slices.Clone(emulator.command[1:]),
		"-accel", "tcg,thread=multi,tb-size=512", "-smp", "2", "-m", "3072", "-nodefaults", "-display", "none",
		"-kernel", filepath.Join(dir, "vmlinuz"), "-initrd", filepath.Join(dir, "ram.cpio"),
		"-append", "quiet panic=-1 mitigations=off init_on_alloc=0 net.ifnames=0 systemd.show_status=0 console="+emulator.console+" guest="+first,
		"-drive", "file="+filepath.Join(*machine, k.arch+".ext4")+",format=raw,if=virtio,snapshot=on,cache=unsafe",
		"-virtfs", share+"src,path="+repository,
		"-virtfs", share+"modules,path="+filepath.Join(dir, "lib/modules"),
		"-device", "virtio-rng-pci", "-serial", "file:"+console,
		"-device", "virtio-serial-pci", "-chardev", "file,id=out,path=/dev/stdout", "-device", "virtserialport,chardev=out")
	return exec.CommandContext(ctx, emulator.command[0], args...)
}

// follow reports the groups of one boot, as the guest's lines tell.
func (k kernel) follow(t *testing.T, pid int, lines *lines, boot []group) {
	t.Helper()
	began := spent(pid)
	release, found := lines.until("kernel")
	if !found {
		t.Errorf("%s has not started", k.name)
		return
	}
	fmt.Printf("%s: up in %s\n", release, spent(pid).since(began))
	for _, group := range boot {
		if _, found := lines.until("begin " + group.name); !found {
			t.Errorf("%s: the guest has not come to %s", release, group.name)
			return
		}
		began := spent(pid)
		t.Run(group.name, func(t *testing.T) { group.report(t, lines) })
		fmt.Printf("%s: %s in %s\n", release, group.name, spent(pid).since(began))
	}
}

// use is a moment, and how much of the processors' time a guest has used until then: it tells a slow test from a busy machine.
type use struct {
	at  time.Time
	cpu time.Duration
}

func spent(pid int) use {
	now := use{at: time.Now()}
	stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)) // none once the guest has ended
	if _, behind, found := strings.Cut(string(stat), ") "); found {
		const user, system, perSecond = 11, 12, 100 // fields behind the name, in hundredths of a second
		fields := strings.Fields(behind)
		for _, field := range []string{fields[user], fields[system]} {
			ticks, _ := strconv.Atoi(field)
			now.cpu += time.Duration(ticks) * time.Second / perSecond
		}
	}
	return now
}

func (u use) since(began use) string {
	return fmt.Sprintf("%s (%s of processors' time)", u.at.Sub(began.at).Round(100*time.Millisecond), (u.cpu - began.cpu).Round(100*time.Millisecond))
}

func since(began time.Time) time.Duration { return time.Since(began).Round(100 * time.Millisecond) }

// lines are what a guest prints; those that begin with @@ are from guest.sh.
type lines struct{ *bufio.Scanner }

// until skips lines up to the one that says this, and returns what follows there.
func (l *lines) until(what string) (rest string, found bool) {
	for l.Scan() {
		if rest, found := strings.CutPrefix(l.Text(), "@@ "+what); found {
			return strings.TrimSpace(rest), true
		}
	}
	return "", false
}
