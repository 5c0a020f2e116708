//go:build soak

package kernels

import (
	"flag"
	"path/filepath"
	"testing"
	"time"
)

var (
	soakFor  = flag.Duration("for", 10*time.Minute, "how long egress-ip is measured")
	soakArgs = flag.String("soak", "", "further arguments of the soak")
)

// TestSoak measures packets with a wrong source in guests; `make soak KERNEL=k61` calls it, and has built the former version.
func TestSoak(t *testing.T) {
	for _, k := range kernels {
		if k.arch != "amd64" {
			continue
		}
		t.Run(k.name, func(t *testing.T) {
			dir := filepath.Join(run, k.arch)
			for _, args := range [][]string{
				{"go", "build", "-C", repository, "-ldflags", "-s -w", "-o", filepath.Join(dir, "bin/egress-ip"), "./plugins/egress-ip"},
				{"go", "test", "-C", repository, "-tags", "soak", "-c", "-o", filepath.Join(dir, "soak"), "./integration"},
				{"cp", filepath.Join(repository, "bin/egress-ip-former"), filepath.Join(dir, "bin")},
			} {
				if err := execute([]string{"CGO_ENABLED=0", "GOARCH=" + k.arch}, args[0], args[1:]...); err != nil {
					t.Fatal(err)
				}
			}
			// An emulated processor sends a tenth of what the machine's own does, and most of that time goes into new connections:
			// so there are fewer of them among the packets.
			guest{boots: [][]group{{{
				name: "soak", pkg: "soak", program: true, limit: *soakFor*3/2 + 5*time.Minute,
				args: "-test.run ^TestSoak$ -for " + soakFor.String() + " -rate 6000 -pods 6 -burst 50 " + *soakArgs,
			}}}}.run(t, k)
		})
	}
}
