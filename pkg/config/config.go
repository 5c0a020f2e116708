// Package config turns what a runtime hands to a plugin (stdin, CNI_ARGS and,
// inside stdin, the pod's annotations) into a validated [Config] and [Request].
// It is pure: what only the node can tell is decided in package egress.
package config

import (
	"encoding/json"
	"net/netip"
	"path"
	"slices"
)

// Defaults of the keys that may be left out.
const (
	DefaultRulePriority = 6000
	DefaultTableBase    = 1000
	DefaultMarkMask     = 0x0f000000
)

// The addresses of Azure's IPv6 load balancer probes, see DESIGN section 1.
var (
	DefaultProbeSource     = netip.MustParseAddr("fe80::1234:5678:9abc")
	DefaultProbeTranslated = netip.MustParseAddr("2603:1062:0:1:fe80:1234:5678:9abc")
)

// Config is the plugin's entry of a conflist.
type Config struct {
	Network      string // the conflist's name
	Links        []Link
	Defaults     []Default
	ClusterCIDRs []netip.Prefix
	RulePriority uint32
	TableBase    uint32
	MarkMask     uint32
	MaskedMarks  uint32 // bits of others' marks that are always matched with a mask
	Counters     bool   // count what each pod sends to its link
	Unchecked    bool   // a packet is the pod's whose source it has, wherever it comes from
	Probe        Probe
}

// Link is an element of links: a link, or several by a glob, that may carry egress.
type Link struct {
	Pattern  string // empty: any link whose network holds the address
	Gateways []netip.Addr
	Allow    []Allow
	// Unchecked: an egress address is put on the link without asking it whether
	// another host has the address.
	Unchecked bool
}

// Matches reports whether the element speaks of the link with this name.
func (l Link) Matches(name string) bool { return l.Pattern == "" || Glob(l.Pattern, name) }

// ChecksDuplicates reports whether the link is to be asked for other hosts with
// an egress address: unless an element that speaks of it says no.
func (c Config) ChecksDuplicates(link string) bool {
	return !slices.ContainsFunc(c.Links, func(l Link) bool { return l.Matches(link) && l.Unchecked })
}

// Allow says which namespaces may use which addresses.
type Allow struct {
	Namespaces []string       // globs
	Addresses  []netip.Prefix // empty: the link's own address
}

// MatchesNamespace reports whether the entry speaks of the namespace; an unknown
// one, empty, is matched by "*" alone.
func (a Allow) MatchesNamespace(namespace string) bool {
	return matchesNamespace(a.Namespaces, namespace)
}

// Default is an element of defaults: what the pods of namespaces ask for that have no annotation.
type Default struct {
	Namespaces  []string          // globs
	Annotations map[string]string // that they count as having; none: they are plain
}

func matchesNamespace(patterns []string, namespace string) bool {
	for _, pattern := range patterns {
		if pattern == "*" || namespace != "" && Glob(pattern, namespace) {
			return true
		}
	}
	return false
}

// ProbeMode says when the probe table is to exist.
type ProbeMode string

// The modes, see DESIGN section 2.
const (
	ProbeAuto   ProbeMode = "auto"
	ProbeAlways ProbeMode = "always"
	ProbeNever  ProbeMode = "never"
)

// Probe is the key probeSNAT.
type Probe struct {
	Mode       ProbeMode
	Links      []string // empty: the links with an IPv6 default route
	Source     netip.Addr
	Translated netip.Addr
}

// Glob reports whether name matches a pattern that Parse has let through.
func Glob(pattern, name string) bool {
	ok, err := path.Match(pattern, name)
	return err == nil && ok
}

// Validate reports what is wrong with a configuration, whatever else stdin holds.
func Validate(stdin []byte) error {
	_, err := ParseEntry(stdin)
	return err
}

// ParseEntry reads an entry of a conflist, without what a runtime adds to it. The
// error is an [InvalidError].
func ParseEntry(entry []byte) (Config, error) {
	c, err := parse(entry)
	if err != nil {
		return Config{}, &InvalidError{err}
	}
	return c, nil
}

// MissesCapability reports whether links are configured but the runtime is not
// asked for annotations, so that every pod would pass as a plain one.
func MissesCapability(stdin []byte) bool {
	var w struct {
		Links        []json.RawMessage `json:"links"`
		Capabilities map[string]any    `json:"capabilities"`
	}
	return json.Unmarshal(stdin, &w) == nil && len(w.Links) > 0 && w.Capabilities[annotationsCapability] != true
}
