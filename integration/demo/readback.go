package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// line is one thing that stands on the node, as text: what the demo compares,
// and what it shows.
type line struct {
	kind string
	in   string // what holds it, such as "table 254"
	text string
}

// The kinds, in the order in which they are shown.
const (
	ruleLine    = "ip rule"
	routeLine   = "ip route"
	addressLine = "ip address"
	linkLine    = "ip link"
	nftLine     = "nft"
	recordLine  = "record"
)

var kinds = []string{ruleLine, routeLine, addressLine, linkLine, nftLine, recordLine}

// reading is all that stands on the node at one time.
type reading struct {
	lines  []line
	tables []nftTable
}

// read reads back every rule, the routes of every table, addresses, links, the
// whole nftables ruleset, and the record of egress-ip.
func (n *node) read(t *teller) reading {
	t.goOn()
	var r reading
	for _, read := range []func() ([]line, error){n.readRules, n.readRoutes, n.readAddresses, n.readLinks, n.readRecord} {
		lines, err := read()
		t.must(err)
		r.lines = append(r.lines, lines...)
	}
	var err error
	r.tables, err = readNft(n.nft)
	t.must(err)
	for _, table := range r.tables {
		r.lines = append(r.lines, table.lines()...)
	}
	return r
}

// of returns the lines of a kind.
func (r reading) of(kind string) []line {
	return slices.DeleteFunc(slices.Clone(r.lines), func(l line) bool { return l.kind != kind })
}

// beyond returns what is in r and not in other.
func (r reading) beyond(other reading) []line {
	return slices.DeleteFunc(slices.Clone(r.lines), func(l line) bool { return slices.Contains(other.lines, l) })
}

// routesOf returns the routes of one table.
func (r reading) routesOf(table int) []string {
	var texts []string
	for _, l := range r.of(routeLine) {
		if l.in == tableName(table) {
			texts = append(texts, l.text)
		}
	}
	return texts
}

// table returns an nftables table.
func (r reading) table(t *teller, name string) nftTable {
	i := slices.IndexFunc(r.tables, func(table nftTable) bool { return table.name == name })
	if i < 0 {
		t.Fatalf("there is no nftables table %s", name)
	}
	return r.tables[i]
}

func tableName(table int) string { return fmt.Sprintf("table %d", table) }

var families = []int{netlink.FAMILY_V4, netlink.FAMILY_V6}

func (n *node) readRules() ([]line, error) {
	var lines []line
	for _, family := range families {
		rules, err := again(func() ([]netlink.Rule, error) { return n.Node.Netlink().RuleList(family) })
		if err != nil {
			return nil, fmt.Errorf("read rules: %w", err)
		}
		for _, r := range rules {
			lines = append(lines, line{ruleLine, ipVersion(family), ruleText(r)})
		}
	}
	return lines, nil
}

func (n *node) readRoutes() ([]line, error) {
	var lines []line
	for _, family := range families {
		routes, err := again(func() ([]netlink.Route, error) {
			// All tables: the filter says table, and that any will do.
			all := &netlink.Route{Table: unix.RT_TABLE_UNSPEC}
			return n.Node.Netlink().RouteListFiltered(family, all, netlink.RT_FILTER_TABLE)
		})
		if err != nil {
			return nil, fmt.Errorf("read routes: %w", err)
		}
		for _, r := range routes {
			lines = append(lines, line{routeLine, tableName(r.Table), n.routeText(r)})
		}
	}
	return lines, nil
}

func (n *node) readAddresses() ([]line, error) {
	addresses, err := again(func() ([]netlink.Addr, error) {
		return n.Node.Netlink().AddrList(nil, netlink.FAMILY_ALL)
	})
	if err != nil {
		return nil, fmt.Errorf("read addresses: %w", err)
	}
	var lines []line
	for _, a := range addresses {
		lines = append(lines, line{addressLine, "", n.addressText(a)})
	}
	return lines, nil
}

func (n *node) readLinks() ([]line, error) {
	links, err := again(n.Node.Netlink().LinkList)
	if err != nil {
		return nil, fmt.Errorf("read links: %w", err)
	}
	var lines []line
	for _, l := range links {
		a := l.Attrs()
		text := fmt.Sprintf("%d: %s: <%s> mtu %d", a.Index, a.Name, strings.ToUpper((a.Flags & net.FlagUp).String()), a.MTU)
		if a.MasterIndex != 0 {
			text += " master " + n.linkName(a.MasterIndex)
		}
		lines = append(lines, line{linkLine, "", text})
	}
	return lines, nil
}

func (n *node) readRecord() ([]line, error) {
	var lines []line
	err := filepath.WalkDir(n.record, func(path string, _ fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		lines = append(lines, line{recordLine, "", path})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the record: %w", err)
	}
	return lines, nil
}

// again repeats a dump that a change has made inconsistent.
func again[T any](list func() ([]T, error)) ([]T, error) {
	for {
		all, err := list()
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			return all, err
		}
	}
}

func ipVersion(family int) string {
	if family == netlink.FAMILY_V4 {
		return "IPv4"
	}
	return "IPv6"
}
