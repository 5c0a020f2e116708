package status

import (
	"bytes"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf8"
)

// WriteText writes the value for a person: how it is and what to do, then a
// table each of links, pods and the probe table, with what is missing below the
// row that misses it. Ages are as of now.
func (s Status) WriteText(w io.Writer, now time.Time) error {
	var b bytes.Buffer
	fmt.Fprintln(&b, s.headline())
	links := table{columns: []string{"LINK", "STATE", "IFINDEX", "TABLE", "PODS", "DEFAULT ROUTES"}}
	for _, l := range s.Links {
		defaults := strings.Join(l.Defaults, ", ")
		if defaults == "" {
			defaults = "none: closed"
		}
		links.row(l.Missing, l.Name, string(l.State), strconv.Itoa(l.Index), decimal(uint64(l.Table)), strconv.Itoa(l.Pods), defaults)
	}
	pods := table{columns: []string{"POD", "ADDRESS", "EGRESS ADDRESS", "LINK", "STATE", "PACKETS", "BYTES", "SINCE", "AGE"}}
	byDefaults := slices.ContainsFunc(s.Pods, func(p Pod) bool { return p.Origin != OriginAnnotation })
	if byDefaults {
		pods.columns = append(pods.columns, "BY")
	}
	for _, p := range s.Pods {
		packets, octets := "-", "-"
		if p.Sent != nil {
			packets, octets = decimal(p.Sent.Packets), decimal(p.Sent.Bytes)
		}
		row := []string{p.title(), p.Address.String(), p.EgressAddress.String(), p.Link, p.State,
			packets, octets, p.Since.UTC().Format(time.RFC3339), age(now.Sub(p.Since))}
		if byDefaults {
			row = append(row, p.Origin)
		}
		pods.row(p.Missing, row...)
	}
	probe := table{columns: []string{"PROBES", "LINKS", "ADDRESS", "REWRITTEN TO", "PACKETS", "BYTES"}}
	if p := s.Probe; p != nil {
		links := strings.Join(p.Links, ",")
		probe.row(nil, "in", links, p.Source.String(), p.Translated.String(), decimal(p.In.Packets), decimal(p.In.Bytes))
		probe.row(p.Missing, "out", links, p.Translated.String(), p.Source.String(), decimal(p.Out.Packets), decimal(p.Out.Bytes))
	}
	for _, t := range []table{links, pods, probe} {
		t.write(&b)
	}
	writeList(&b, "missing, and not of one pod or link", s.Missing)
	writeList(&b, "unrecorded: egress-ip's in the kernel, but of no recorded pod", s.Unrecorded)
	writeList(&b, "somebody else's, and in the way", s.InTheWay)
	writeList(&b, "dropped by the guard in the last 5 minutes", drops(s.Dropped,
		"%s of %s (%s) that would have left by %s, the last %s ago; `egress-ip explain %[2]s` says why",
		"%s of %s that would have left by %[4]s, the last %[5]s ago; it is no pod with egress: its pod has ended, or a masquerade found no address of %[4]s but an egress address"))
	writeList(&b, "forged sources, dropped in the last 5 minutes", drops(s.Forged,
		"%s with the source of %s (%s) that arrived by %s, the last %s ago",
		"%s with the source %s that arrived by %[4]s, the last %[5]s ago"))
	writeList(&b, "could not be read", s.Unread)
	_, err := w.Write(b.Bytes())
	return err
}

// headline says how the node is, and how to make it healthy.
func (s Status) headline() string {
	if len(s.Links)+len(s.Pods)+len(s.Missing)+len(s.Unrecorded)+len(s.InTheWay)+len(s.Unread)+len(s.Dropped) == 0 && s.Probe == nil {
		return "healthy: nothing is recorded; no pod has egress here, and there is no probe table"
	}
	found := []string{"no pod is recorded"}
	if len(s.Pods) > 0 {
		containers := map[string]bool{} // pods, not addresses
		for _, p := range s.Pods {
			containers[p.ContainerID] = true
		}
		found[0] = count(len(containers), "pod") + " on " + count(len(s.Links), "link")
	}
	if s.Healthy {
		return "healthy: " + found[0]
	}
	for _, f := range []struct {
		n    int
		what string
	}{{s.missing(), "missing"}, {len(s.Unrecorded), "unrecorded"}, {len(s.InTheWay), "in the way"}, {len(s.Unread), "not readable"}} {
		if f.n > 0 {
			found = append(found, fmt.Sprintf("%d %s", f.n, f.what))
		}
	}
	remedy := "; run `egress-ip resync`"
	if s.missing()+len(s.Unrecorded) == 0 {
		remedy = "" // of what cannot be read nothing is repaired
	}
	if len(s.Dropped) > 0 {
		found = append(found, count(int(packetsOf(s.Dropped, netip.Addr{})), "packet")+" dropped by the guard")
		remedy += ", and see `egress-ip explain`"
	}
	if n := s.linksNotUp(); n > 0 {
		found = append(found, count(n, "link")+" not up")
		remedy = "; bring up what is not up, then run `egress-ip resync`"
	}
	return "NOT healthy: " + strings.Join(found, ", ") + remedy
}

// drops has a line for each, in a format that takes packets, pod, address, link and age; unrecorded is that of an
// address that no recorded pod has.
func drops(all []Drop, recorded, unrecorded string) []string {
	var lines []string
	for _, d := range all {
		format, pod := recorded, d.Pod
		if pod == "" {
			format, pod = unrecorded, d.Address.String()
		}
		lines = append(lines, fmt.Sprintf(format, count(int(d.Packets), "packet"), pod, d.Address, d.Link, age(time.Duration(d.Seconds)*time.Second)))
	}
	return lines
}

// count is "1 pod" or "2 pods".
func count(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return strconv.Itoa(n) + " " + what
}

func decimal(n uint64) string { return strconv.FormatUint(n, 10) }

// title is namespace and name, or where the runtime gives no name, as much of
// the container ID as people use.
func (p Pod) title() string {
	switch {
	case p.Name == "":
		return fmt.Sprintf("%.12s", p.ContainerID)
	case p.Namespace == "":
		return p.Name
	default:
		return p.Namespace + "/" + p.Name
	}
}

// age is a duration in its two largest units, "3h12m"; below a minute "42s". A
// clock that was set back makes it 0s.
func age(d time.Duration) string {
	d = max(d, 0)
	minutes := int(d / time.Minute)
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm", minutes)
	case d < 24*time.Hour:
		return fmt.Sprintf("%dh%dm", minutes/60, minutes%60)
	default:
		return fmt.Sprintf("%dd%dh", minutes/60/24, minutes/60%24)
	}
}

// table is columns of text, and lines that belong below a row and to no column.
type table struct {
	columns []string
	rows    [][]string
	below   [][]string // of each row, what it misses
}

func (t *table) row(missing []string, cells ...string) {
	for i, c := range cells {
		cells[i] = printable(c)
	}
	t.rows = append(t.rows, cells)
	t.below = append(t.below, missing)
}

// write writes an empty line and the table, or nothing for one without rows.
func (t table) write(b *bytes.Buffer) {
	if len(t.rows) == 0 {
		return
	}
	// A line without cells would end a tabwriter's columns, so the lines below rows
	// are put in afterwards.
	var aligned bytes.Buffer
	tw := tabwriter.NewWriter(&aligned, 0, 0, 2, ' ', 0)
	for _, r := range append([][]string{t.columns}, t.rows...) {
		fmt.Fprintln(tw, strings.Join(r, "\t"))
	}
	_ = tw.Flush() // a bytes.Buffer takes everything
	header, lines, _ := strings.Cut(aligned.String(), "\n")
	fmt.Fprintf(b, "\n%s\n", header)
	i := 0
	for line := range strings.Lines(lines) {
		b.WriteString(line)
		for _, m := range t.below[i] {
			fmt.Fprintf(b, "  missing: %s\n", printable(m))
		}
		i++
	}
}

func writeList(b *bytes.Buffer, title string, lines []string) {
	if len(lines) == 0 {
		return
	}
	fmt.Fprintf(b, "\n%s:\n", title)
	for _, l := range lines {
		fmt.Fprintf(b, "  %s\n", printable(l))
	}
}

// printable quotes what would break a table or a terminal: names come from
// outside.
func printable(s string) string {
	if utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return s
	}
	return strconv.Quote(s)
}
