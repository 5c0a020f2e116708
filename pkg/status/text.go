package status

import (
	"bytes"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
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
	if s.nothing() {
		return "healthy: nothing is recorded; no pod has egress here, and there is no probe table"
	}
	found := []string{"no pod is recorded"}
	if len(s.Pods) > 0 {
		found[0] = count(s.pods(), "pod") + " on " + count(len(s.Links), "link")
	}
	if s.Healthy {
		return "healthy: " + found[0]
	}
	remedy := "; run `egress-ip resync`"
	if s.missing()+len(s.Unrecorded) == 0 {
		remedy = "" // of what cannot be read nothing is repaired
	}
	if n := s.missing(); n > 0 {
		found = append(found, fmt.Sprintf("%d missing", n))
	}
	if n := len(s.Unrecorded); n > 0 {
		found = append(found, fmt.Sprintf("%d unrecorded", n))
	}
	if n := len(s.InTheWay); n > 0 {
		found = append(found, fmt.Sprintf("%d in the way", n))
	}
	if n := len(s.Unread); n > 0 {
		found = append(found, fmt.Sprintf("%d not readable", n))
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
