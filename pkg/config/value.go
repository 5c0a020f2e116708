package config

import (
	"fmt"
	"net/netip"
	"path"
	"strconv"
	"strings"
)

func parseNumber(key string, value *int64) (uint32, error) {
	n := numbers[key]
	if value == nil {
		return n.without, nil
	}
	if *value < n.low || *value > n.high {
		return 0, fmt.Errorf("%s: %d is not between %d and %d", key, *value, n.low, n.high)
	}
	return uint32(*value), nil
}

// parseMask wants one run of two bits or more, away from those that kube-proxy
// takes (0x4000 and 0x8000): the highest value means "not ours", the others a link each.
func parseMask(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 0, 32)
	if err != nil {
		return 0, fmt.Errorf("markMask: %q is no 32-bit number such as \"0x0f000000\"", s)
	}
	mask := uint32(n)
	run := mask / max(mask&-mask, 1)
	if run < 3 || run&(run+1) != 0 {
		return 0, fmt.Errorf("markMask: %q must be one run of two bits or more, such as \"0x0f000000\"", s)
	}
	for _, others := range []struct {
		bits  uint32
		whose string
	}{
		{0xc000, "kube-proxy's"},
		// It masquerades whatever has the bit, so every plain pod.
		{0x2000, "portmap's"},
	} {
		if mask&others.bits != 0 {
			return 0, fmt.Errorf("markMask: %q holds a bit of %#x, which is %s; choose others", s, others.bits, others.whose)
		}
	}
	return mask, nil
}

// parseMaskedMarks takes any bits but our own.
func parseMaskedMarks(s string, ours uint32) (uint32, error) {
	n, err := strconv.ParseUint(s, 0, 32)
	if err != nil {
		return 0, fmt.Errorf("maskedMarks: %q is no 32-bit number such as \"0xffff0000\"", s)
	}
	if uint32(n)&ours != 0 {
		return 0, fmt.Errorf("maskedMarks: %q holds bits of markMask, %#08x, which are egress-ip's; choose another markMask, such as \"0x00000f00\", or leave them out", s, ours)
	}
	return uint32(n), nil
}

func checkGlob(key, pattern string) error {
	if _, err := path.Match(pattern, ""); err != nil || pattern == "" {
		return fmt.Errorf("%s: %q is no glob; * and ? stand for characters, [ab] for one of several", key, pattern)
	}
	return nil
}

// parsePrefix takes a network, or an address as a network of its own.
func parsePrefix(key, s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		a, addrErr := netip.ParseAddr(s)
		if addrErr != nil || a.Zone() != "" || a.Is4In6() {
			return netip.Prefix{}, fmt.Errorf("%s: %q is neither a network such as 192.168.124.96/28 nor an address", key, s)
		}
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	if p.Addr().Is4In6() {
		return netip.Prefix{}, fmt.Errorf("%s: %q is an IPv4 network in IPv6 form; write it as IPv4", key, s)
	}
	if p != p.Masked() {
		return netip.Prefix{}, fmt.Errorf("%s: %q has bits behind its length; did you mean %s?", key, s, p.Masked())
	}
	return p, nil
}

func parseAddr(key, s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" || a.Is4In6() {
		return netip.Addr{}, fmt.Errorf("%s: %q is no plain IPv4 or IPv6 address (no zone, no prefix length, no IPv4 in IPv6 form)", key, s)
	}
	return a, nil
}

// validLinkName follows the kernel's dev_valid_name, and leaves globs out.
func validLinkName(name string) bool {
	return name != "" && len(name) <= 15 && name != "." && name != ".." && !strings.ContainsAny(name, "/: \t\n\v\f\r*?[\\")
}
