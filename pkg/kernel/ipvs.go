package kernel

import (
	"bufio"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strings"
)

// Backends returns the addresses to which IPVS, by which kube-proxy may serve Services, sends
// what is for an address; none where that is no Service of it.
func (k *Kernel) Backends(service netip.Addr) ([]netip.Addr, error) {
	f, err := os.Open("/proc/thread-self/net/ip_vs")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // the module is not loaded
	}
	if err != nil {
		return nil, fmt.Errorf("read the Services of IPVS: %w", err)
	}
	defer f.Close()
	var backends []netip.Addr
	lines := bufio.NewScanner(f)
	for asked := false; lines.Scan(); {
		switch fields := strings.Fields(lines.Text()); {
		case len(fields) < 2:
		case fields[0] != "->":
			asked = ipvsAddress(fields[1]) == service
		case asked:
			if a := ipvsAddress(fields[1]); a.IsValid() && !slices.Contains(backends, a) {
				backends = append(backends, a)
			}
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read the Services of IPVS: %w", err)
	}
	return backends, nil
}

// ipvsAddress is that of an endpoint as the kernel prints it there: 0A60000A:0050, or
// [2001:0db8:0000:0000:0000:0000:0000:0001]:0050. It is zero where the text is none.
func ipvsAddress(endpoint string) netip.Addr {
	host := endpoint[:max(strings.LastIndexByte(endpoint, ':'), 0)]
	if inside, ok := strings.CutPrefix(host, "["); ok {
		a, _ := netip.ParseAddr(strings.TrimSuffix(inside, "]"))
		return a
	}
	b, err := hex.DecodeString(host)
	if err != nil || len(b) != 4 {
		return netip.Addr{}
	}
	return netip.AddrFrom4([4]byte(b))
}
