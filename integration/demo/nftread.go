package main

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// nftTable is a table as it was read back, in the words of `nft list table`.
type nftTable struct {
	name   string // "inet egress_ip"
	sets   []nftSet
	chains []nftChain
}

type nftSet struct {
	head     string // "map snat4"
	spec     string // "type ipv4_addr . ifname : ipv4_addr"
	elements []string
	ipv6     bool // only for IPv6 packets
}

type nftChain struct {
	name  string
	hook  string // "type nat hook postrouting priority srcnat - 10;", or nothing
	rules []nftRule
}

type nftRule struct {
	text string
	ipv6 bool // only for IPv6 packets
}

// readNft reads the whole ruleset.
func readNft(c *nftables.Conn) ([]nftTable, error) {
	tables, err := c.ListTables()
	if err != nil {
		return nil, fmt.Errorf("read the nftables tables: %w", err)
	}
	chains, err := c.ListChains()
	if err != nil {
		return nil, fmt.Errorf("read the nftables chains: %w", err)
	}
	var read []nftTable
	for _, t := range tables {
		table := nftTable{name: familyText(t.Family) + " " + t.Name}
		anonymous, err := table.readSets(c, t)
		if err != nil {
			return nil, fmt.Errorf("read the sets of table %s: %w", table.name, err)
		}
		for _, chain := range chains {
			if chain.Table.Name != t.Name || chain.Table.Family != t.Family {
				continue
			}
			rules, err := c.GetRules(t, chain)
			if err != nil {
				return nil, fmt.Errorf("read chain %s of table %s: %w", chain.Name, table.name, err)
			}
			have := nftChain{name: chain.Name, hook: hookText(chain)}
			for _, r := range rules {
				have.rules = append(have.rules, ruleOf(t.Family, r.Exprs, anonymous))
			}
			table.chains = append(table.chains, have)
		}
		read = append(read, table)
	}
	return read, nil
}

// readSets reads sets and maps. Anonymous ones are parts of rules; their
// elements are returned by name.
func (table *nftTable) readSets(c *nftables.Conn, t *nftables.Table) (anonymous map[string]string, err error) {
	sets, err := c.GetSets(t)
	if err != nil {
		return nil, err
	}
	anonymous = map[string]string{}
	for _, s := range sets {
		elements, err := c.GetSetElements(s)
		if err != nil {
			return nil, err
		}
		have := nftSet{head: "set " + s.Name, spec: "type " + s.KeyType.Name, elements: elementTexts(s, elements)}
		have.ipv6 = t.Family == nftables.TableFamilyINet && typesOf(s.KeyType)[0] == "ipv6_addr"
		if s.IsMap {
			have.head, have.spec = "map "+s.Name, have.spec+" : "+s.DataType.Name
		}
		if s.Interval {
			have.spec += "; flags interval"
		}
		if s.Anonymous {
			anonymous[s.Name] = "{ " + strings.Join(have.elements, ", ") + " }"
			continue
		}
		table.sets = append(table.sets, have)
	}
	return anonymous, nil
}

// lines is the table for comparing: chains' rules are in order.
func (table nftTable) lines() []line {
	in := "table " + table.name
	lines := []line{{nftLine, "", in}}
	for _, s := range table.sets {
		lines = append(lines, line{nftLine, in, s.head + " { " + s.spec + " }"})
		for _, e := range s.elements {
			lines = append(lines, line{nftLine, in + " " + s.head, e})
		}
	}
	for _, c := range table.chains {
		lines = append(lines, line{nftLine, in, "chain " + c.name + " { " + c.hook + " }"})
		for _, r := range c.rules {
			lines = append(lines, line{nftLine, in + " chain " + c.name, r.text})
		}
	}
	return lines
}

func familyText(f nftables.TableFamily) string {
	switch f {
	case nftables.TableFamilyINet:
		return "inet"
	case nftables.TableFamilyIPv4:
		return "ip"
	case nftables.TableFamilyIPv6:
		return "ip6"
	}
	return fmt.Sprintf("family-%d", f)
}

// hookText says where a chain is called from the kernel; other chains call the rest.
func hookText(c *nftables.Chain) string {
	if c.Hooknum == nil || c.Priority == nil {
		return ""
	}
	hooks := []string{"prerouting", "input", "forward", "output", "postrouting"}
	text := fmt.Sprintf("type %s hook %s priority %s;", c.Type, hooks[*c.Hooknum], priorityText(int(*c.Priority)))
	if c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop {
		text += " policy drop;"
	}
	return text
}

// priorityText names a priority by the nearest that has a name, as nft does.
func priorityText(priority int) string {
	for _, named := range []struct {
		name string
		at   int
	}{{"raw", -300}, {"mangle", -150}, {"dstnat", -100}, {"filter", 0}, {"security", 50}, {"srcnat", 100}} {
		switch distance := priority - named.at; {
		case distance == 0:
			return named.name
		case distance > 0 && distance <= 10:
			return fmt.Sprintf("%s + %d", named.name, distance)
		case distance < 0 && distance >= -10:
			return fmt.Sprintf("%s - %d", named.name, -distance)
		}
	}
	return fmt.Sprint(priority)
}

// elementTexts gives the elements in the order of their keys; those of an
// interval set come as ends, and become prefixes or ranges.
func elementTexts(s *nftables.Set, elements []nftables.SetElement) []string {
	slices.SortFunc(elements, func(a, b nftables.SetElement) int {
		if c := slices.Compare(a.Key, b.Key); c != 0 {
			return c
		}
		return boolCompare(b.IntervalEnd, a.IntervalEnd)
	})
	key, data := typesOf(s.KeyType), typesOf(s.DataType)
	var texts []string
	for i, e := range elements {
		if e.IntervalEnd {
			continue
		}
		text := concatText(key, e.Key)
		if s.Interval {
			end := []byte(nil) // open: to the last address
			if i+1 < len(elements) && elements[i+1].IntervalEnd {
				end = elements[i+1].Key
			}
			text = intervalText(key[0], e.Key, end)
		}
		if e.Comment != "" {
			text += fmt.Sprintf(" comment %q", e.Comment)
		}
		switch {
		case s.IsMap && s.DataType.Name == "verdict":
			text += " : " + verdictOf(e.Val)
		case s.IsMap:
			text += " : " + concatText(data, e.Val)
		}
		texts = append(texts, text)
	}
	return texts
}

func boolCompare(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

func typesOf(t nftables.SetDatatype) []string {
	var names []string
	for _, e := range nftables.ConcatSetTypeElements(t) {
		names = append(names, e.Name)
	}
	return names
}

// concatText cuts a key where its parts end: each fills whole registers of 4 bytes.
func concatText(types []string, key []byte) string {
	if len(types) == 1 {
		return dataText(types[0], key)
	}
	sizes := map[string]int{"ipv4_addr": 4, "ipv6_addr": 16, "ifname": 16, "mark": 4, "inet_proto": 4, "inet_service": 4, "iface_index": 4, "ether_addr": 8}
	var parts []string
	for _, name := range types {
		size, known := sizes[name]
		if !known || size > len(key) {
			return strings.Join(append(parts, fmt.Sprintf("%#x", key)), " . ")
		}
		parts, key = append(parts, dataText(name, key[:size])), key[size:]
	}
	return strings.Join(parts, " . ")
}

// verdictOf reads a map element that is a verdict; the library leaves it encoded.
func verdictOf(data []byte) string {
	attributes, err := nl.ParseRouteAttr(data)
	if err != nil {
		return fmt.Sprintf("%#x", data)
	}
	var v expr.Verdict
	for _, a := range attributes {
		switch a.Attr.Type {
		case unix.NFTA_VERDICT_CODE:
			v.Kind = expr.VerdictKind(int32(binary.BigEndian.Uint32(a.Value)))
		case unix.NFTA_VERDICT_CHAIN:
			v.Chain = strings.TrimRight(string(a.Value), "\x00")
		}
	}
	return verdictText(v)
}

// text writes the table in the syntax of nft, a chain or a set on few lines; sets
// without elements, and what is only for IPv6 in a table of both families, are
// left out.
func (table nftTable) text() []string {
	lines := []string{"table " + table.name + " {"}
	for _, s := range table.sets {
		if len(s.elements) > 0 && !s.ipv6 {
			parts := []string{s.spec + ";", "elements = {"}
			for _, e := range s.elements {
				parts = append(parts, e+",")
			}
			last := &parts[len(parts)-1]
			*last = strings.TrimSuffix(*last, ",") + " }; }"
			lines = append(lines, fill("  "+s.head+" { ", parts...)...)
		}
	}
	for _, c := range table.chains {
		parts := []string{c.hook}
		for _, r := range c.rules {
			if !r.ipv6 {
				parts = append(parts, r.text+";")
			}
		}
		parts[len(parts)-1] += " }"
		lines = append(lines, fill("  chain "+c.name+" { ", parts...)...)
	}
	lines[len(lines)-1] += "; }"
	return lines
}

// nftWidth is what is left of a line of the story.
const nftWidth = 105

// fill puts parts on as few lines as they fit.
func fill(first string, parts ...string) []string {
	var lines []string
	now, empty := first, true
	for _, p := range parts {
		if p == "" {
			continue
		}
		if !empty && len(now)+len(p) >= nftWidth {
			lines = append(lines, now)
			now, empty = "      ", true
		}
		if !empty {
			now += " "
		}
		now, empty = now+p, false
	}
	return append(lines, now)
}
