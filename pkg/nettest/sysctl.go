package nettest

import (
	"os"
	"strings"
)

// Sysctl sets a key like "net.ipv4.ip_forward" in the namespace. A part of the key (a link's name) has no dots.
func (n *Namespace) Sysctl(t T, key, value string) {
	t.Helper()
	// What is below /proc/sys/net belongs to the namespace of the thread that opens it; no /proc/thread-self is needed.
	err := n.inside(func() error { return os.WriteFile(sysctlPath(key), []byte(value), 0) })
	if err != nil {
		t.Fatalf("namespace %s: sysctl %s=%s: %v", n.name, key, value, err)
	}
}

func sysctlPath(key string) string { return "/proc/sys/" + strings.ReplaceAll(key, ".", "/") }

// setDefaults pins what a new namespace would otherwise take from the host's settings (IPv4), and makes IPv6
// addresses usable at once and links quiet. Set before there are links, for they copy conf.default.
func (n *Namespace) setDefaults(t T) {
	t.Helper()
	n.Sysctl(t, "net.ipv4.ip_forward", "0")
	for _, conf := range []string{"all", "default"} {
		for _, key := range []string{"rp_filter", "arp_ignore", "arp_announce", "arp_filter", "src_valid_mark"} {
			n.Sysctl(t, "net.ipv4.conf."+conf+"."+key, "0")
		}
		n.Sysctl(t, "net.ipv6.conf."+conf+".accept_dad", "0")
		n.Sysctl(t, "net.ipv6.conf."+conf+".accept_ra", "0")
		n.Sysctl(t, "net.ipv6.conf."+conf+".disable_ipv6", "0")
	}
}

// Forward makes the namespace a router for both families.
func (n *Namespace) Forward(t T) {
	t.Helper()
	n.Sysctl(t, "net.ipv4.ip_forward", "1")
	n.Sysctl(t, "net.ipv6.conf.all.forwarding", "1")
}
