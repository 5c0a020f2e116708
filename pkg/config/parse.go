package config

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"path"
	"reflect"
	"slices"
	"strconv"
	"strings"

	kjson "sigs.k8s.io/json"
)

// parse reads stdin into a Config. Errors name the key and the value.
func parse(stdin []byte) (Config, error) {
	var w wire
	if err := decodeStrict(stdin, &w); err != nil {
		return Config{}, err
	}
	for _, ignored := range []struct {
		key   string
		value json.RawMessage
	}{{"ipam", w.IPAM}, {"dns", w.DNS}} {
		if err := checkUnused(ignored.key, ignored.value); err != nil {
			return Config{}, err
		}
	}
	c := Config{Network: w.Name, MarkMask: DefaultMarkMask}
	var err error
	for i, l := range w.Links {
		link, err := parseLink(fmt.Sprintf("links[%d]", i), l)
		if err != nil {
			return Config{}, err
		}
		c.Links = append(c.Links, link)
	}
	for i, d := range w.Defaults {
		parsed, err := parseDefault(i, d)
		if err != nil {
			return Config{}, err
		}
		c.Defaults = append(c.Defaults, parsed)
	}
	for i, s := range w.ClusterCIDRs {
		key := fmt.Sprintf("clusterCIDRs[%d]", i)
		p, err := parsePrefix(key, s)
		if err != nil {
			return Config{}, err
		}
		if p.Bits() == 0 {
			return Config{}, fmt.Errorf("%s: %q is every address, so nothing would leave by an egress link; name the cluster's networks", key, s)
		}
		c.ClusterCIDRs = append(c.ClusterCIDRs, p)
	}
	if c.RulePriority, err = parseNumber("rulePriority", w.RulePriority); err != nil {
		return Config{}, err
	}
	if c.TableBase, err = parseNumber("tableBase", w.TableBase); err != nil {
		return Config{}, err
	}
	if w.MarkMask != nil {
		if c.MarkMask, err = parseMask(*w.MarkMask); err != nil {
			return Config{}, err
		}
	}
	if w.MaskedMarks != nil {
		if c.MaskedMarks, err = parseMaskedMarks(*w.MaskedMarks, c.MarkMask); err != nil {
			return Config{}, err
		}
	}
	c.Counters = w.Counters != nil && *w.Counters
	c.Unchecked = w.SourceCheck != nil && !*w.SourceCheck
	if c.Counters && c.Unchecked {
		return Config{}, errors.New("counters: true needs sourceCheck: true, whose look-up is what counts; remove one of the two keys")
	}
	c.Probe, err = parseProbe(w.ProbeSNAT)
	return c, err
}

// decodeStrict reads an entry: an unknown key, one in another case, and one that is there
// twice are errors that name it with its path.
func decodeStrict(stdin []byte, w *wire) error {
	strict, err := kjson.UnmarshalStrict(stdin, w)
	if err != nil {
		return decodeError(stdin, err)
	}
	if len(strict) == 0 {
		return nil
	}
	// The two kinds of mistakes have one type: decode again, and look for one kind alone.
	unknown, err := kjson.UnmarshalStrict(stdin, new(wire), kjson.DisallowUnknownFields)
	if err != nil {
		return decodeError(stdin, err)
	}
	for _, e := range strict {
		switch path := fieldPath(e); {
		case !slices.ContainsFunc(unknown, func(u error) bool { return fieldPath(u) == path }):
			return fmt.Errorf("key %q is there twice; write it once", path)
		case !strings.HasPrefix(path, "cni.dev/"):
			return fmt.Errorf("unknown key %q; the keys there are %s", path, knownKeys(path))
		}
	}
	return nil
}

// fieldPath is where in the JSON a strict error is.
func fieldPath(err error) string {
	var field kjson.FieldError
	if !errors.As(err, &field) {
		return "" // the library has no other errors
	}
	return field.FieldPath()
}

// decode reads what is asked for and nothing else: other keys may be what they like.
func decode(stdin []byte, w *wireCall) error { return decodeError(stdin, decodeLoosely(stdin, w)) }

// decodeLoosely reads the keys that there are places for, and no others.
func decodeLoosely(data []byte, into any) error {
	return kjson.UnmarshalCaseSensitivePreserveInts(data, into)
}

// decodeError names the key and the value that are of a wrong type.
func decodeError(stdin []byte, err error) error {
	var mistyped *json.UnmarshalTypeError
	if errors.As(err, &mistyped) {
		key := cmp.Or(mistyped.Field, "network configuration")
		return fmt.Errorf("%s: %s must be %s", key, valueAt(stdin, mistyped.Offset), kindName(mistyped.Type.Kind()))
	}
	if err != nil {
		return fmt.Errorf("network configuration: %w", err)
	}
	return nil
}

// checkUnused refuses a key of the specification that egress-ip does not act on. An
// empty object asks for nothing: programs that write entries with the CNI library's
// types leave one.
func checkUnused(key string, value json.RawMessage) error {
	if len(value) == 0 || string(value) == "null" {
		return nil
	}
	var object map[string]any
	if json.Unmarshal(value, &object) == nil && len(object) == 0 {
		return nil
	}
	return fmt.Errorf("%s: %.100s: egress-ip does nothing with this key; remove it here, the plugin that gives pods their addresses may have it", key, value)
}

// valueAt returns the value whose first token ends at an offset of valid JSON, a
// list or an object by its name.
func valueAt(stdin []byte, end int64) string {
	d := json.NewDecoder(bytes.NewReader(stdin))
	d.UseNumber()
	var token json.Token
	for d.InputOffset() < end {
		t, err := d.Token()
		if err != nil {
			break
		}
		token = t
	}
	switch t := token.(type) {
	case json.Delim:
		if t == '[' {
			return "a list"
		}
		return "an object"
	case string:
		return strconv.Quote(t)
	}
	return fmt.Sprint(token)
}

// kindName says what JSON a field of this kind is written as.
func kindName(k reflect.Kind) string {
	switch k {
	case reflect.Bool:
		return "true or false"
	case reflect.String:
		return "a string, in quotes"
	case reflect.Slice:
		return "a list, in []"
	case reflect.Int64:
		return "a whole number of 31 bits at the most, without quotes"
	}
	return "an object, in {}"
}

// knownKeys lists the keys that may be where the one at path is.
func knownKeys(path string) string {
	var of any = wire{}
	switch {
	case strings.Contains(path, ".allow["):
		of = wireAllow{}
	case strings.HasPrefix(path, "links["):
		of = wireLink{}
	case strings.HasPrefix(path, "defaults["):
		of = wireDefault{}
	case strings.HasPrefix(path, "probeSNAT."):
		of = wireProbe{}
	}
	var keys []string
	for _, field := range reflect.VisibleFields(reflect.TypeOf(of)) {
		if key := field.Tag.Get("json"); key != "" && key != "ipam" && key != "dns" {
			keys = append(keys, key)
		}
	}
	return strings.Join(keys, ", ")
}

func parseLink(key string, l wireLink) (Link, error) {
	link := Link{Unchecked: l.DuplicateCheck != nil && !*l.DuplicateCheck}
	if l.Name != nil {
		if *l.Name == "" {
			return Link{}, fmt.Errorf("%s.name is empty; name a link or a glob, or leave the key out", key)
		}
		if err := checkGlob(key+".name", *l.Name); err != nil {
			return Link{}, err
		}
		if !strings.ContainsAny(*l.Name, "*?[\\") && !validLinkName(*l.Name) {
			return Link{}, fmt.Errorf("%s.name: %q is no name of a link (1 to 15 characters, no space or slash)", key, *l.Name)
		}
		link.Pattern = *l.Name
	}
	seen := map[bool]string{}
	for i, s := range l.Gateways {
		key := fmt.Sprintf("%s.gateways[%d]", key, i)
		a, err := parseAddr(key, s)
		if err != nil {
			return Link{}, err
		}
		if a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() || a == limitedBroadcast {
			return Link{}, fmt.Errorf("%s: %q is no next hop; name the router's address on the link", key, s)
		}
		if other, twice := seen[a.Is4()]; twice {
			return Link{}, fmt.Errorf("%s: %q is the second of its address family after %q; a link has at most one gateway per address family", key, s, other)
		}
		seen[a.Is4()] = s
		link.Gateways = append(link.Gateways, a)
	}
	for i, a := range l.Allow {
		allow, err := parseAllow(fmt.Sprintf("%s.allow[%d]", key, i), a)
		if err != nil {
			return Link{}, err
		}
		link.Allow = append(link.Allow, allow)
	}
	return link, nil
}

func parseAllow(key string, a wireAllow) (Allow, error) {
	if len(a.Namespaces) == 0 {
		return Allow{}, fmt.Errorf("%s.namespaces is empty, so the entry allows nothing; list namespaces or globs, \"*\" is all", key)
	}
	if a.Addresses != nil && len(a.Addresses) == 0 {
		return Allow{}, fmt.Errorf("%s.addresses is empty; list addresses, or leave the key out to allow the link's own", key)
	}
	allow := Allow{Namespaces: a.Namespaces}
	for i, n := range a.Namespaces {
		if err := checkGlob(fmt.Sprintf("%s.namespaces[%d]", key, i), n); err != nil {
			return Allow{}, err
		}
	}
	for i, s := range a.Addresses {
		key := fmt.Sprintf("%s.addresses[%d]", key, i)
		p, err := parsePrefix(key, s)
		if err != nil {
			return Allow{}, err
		}
		allow.Addresses = append(allow.Addresses, p)
	}
	return allow, nil
}

func parseProbe(w wireProbe) (Probe, error) {
	p := Probe{Mode: ProbeAuto, Links: w.Links, Source: DefaultProbeSource, Translated: DefaultProbeTranslated}
	if w.Mode != nil {
		p.Mode = ProbeMode(*w.Mode)
		if !slices.Contains(probeModes, p.Mode) {
			return Probe{}, fmt.Errorf("probeSNAT.mode: %q is none of auto, always, never", *w.Mode)
		}
	}
	for i, name := range w.Links {
		if !validLinkName(name) {
			return Probe{}, fmt.Errorf("probeSNAT.links[%d]: %q is no name of a link (1 to 15 characters, no space, slash or wildcard)", i, name)
		}
	}
	p.Links = slices.Compact(slices.Sorted(slices.Values(p.Links)))
	var err error
	if w.Source != nil {
		if p.Source, err = parseAddr("probeSNAT.source", *w.Source); err != nil {
			return Probe{}, err
		}
		if !p.Source.Is6() || !p.Source.IsLinkLocalUnicast() {
			return Probe{}, fmt.Errorf("probeSNAT.source: %q is no IPv6 link-local address (fe80::/10); name the one that probes come from", *w.Source)
		}
	}
	if w.Translated != nil {
		if p.Translated, err = parseAddr("probeSNAT.translated", *w.Translated); err != nil {
			return Probe{}, err
		}
		if !p.Translated.Is6() || !p.Translated.IsGlobalUnicast() {
			return Probe{}, fmt.Errorf("probeSNAT.translated: %q is no global IPv6 address; pods see it as the source of probes", *w.Translated)
		}
	}
	return p, nil
}

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
