package status

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// WritePrometheus writes the value in the text format 0.0.4, for node_exporter's
// textfile collector. version is that of the binary.
//
// The libraries that write it link net/http or protobuf, whose initialization
// costs 0.7 to 1 ms in every CNI call.
func (s Status) WritePrometheus(w io.Writer, version string) error {
	var m metrics
	m.add("build_info", "1, labelled with the version of egress-ip.").sum(1, "version", version)
	m.add("healthy", "1 if nothing is missing, unrecorded or unread, every link is up, and the guard drops nothing.").all(s.Healthy)
	m.add("missing", "What is recorded but not in the kernel, of all pods, links and the probe table.").sum(uint64(s.missing()))
	m.add("unrecorded", "What is egress-ip's in the kernel but recorded nowhere.").sum(uint64(len(s.Unrecorded)))
	m.add("unread", "Parts of the node that could not be read, so nothing is said of them.").sum(uint64(len(s.Unread)))

	up := m.add("link_up", "1 if the egress link can send.")
	pods := m.add("link_pods", "Pods that are recorded on the egress link.")
	for _, l := range s.Links {
		up.all(l.State == LinkUp, "link", l.Name, "table", decimal(uint64(l.Table)))
		pods.sum(uint64(l.Pods), "link", l.Name)
	}

	healthy := m.add("pod_healthy", "1 if the pod address leaves as the annotation says: nothing that it needs is missing, and its link is up.")
	packets := m.add("pod_sent_packets_total", "Packets that the pod address sent to its egress link.")
	octets := m.add("pod_sent_bytes_total", "Bytes that the pod address sent to its egress link.")
	for _, p := range s.Pods {
		labels := []string{
			"namespace", p.Namespace, "pod", p.Name,
			"pod_address", p.Address.String(), "egress_address", p.EgressAddress.String(), "link", p.Link,
		}
		healthy.all(p.State == PodHealthy, labels...)
		if p.Sent != nil {
			packets.sum(p.Sent.Packets, labels...)
			octets.sum(p.Sent.Bytes, labels...)
		}
	}

	dropped := m.add("dropped_packets", "Packets of the pod address that the guard has dropped: they would have left by the link with another source, or by the wrong link. Of what was dropped in the last 5 minutes.")
	for _, d := range s.Dropped {
		dropped.sum(d.Packets, "pod_address", d.Address.String(), "link", d.Link)
	}
	forged := m.add("forged_packets", "Packets with the pod address as their source that were dropped, as they arrived by the link and not from the pod. Of what was dropped in the last 5 minutes.")
	for _, d := range s.Forged {
		forged.sum(d.Packets, "pod_address", d.Address.String(), "link", d.Link)
	}

	if p := s.Probe; p != nil {
		packets := m.add("probe_translated_packets_total", "Probes (in) and their answers (out) that were translated.")
		octets := m.add("probe_translated_bytes_total", "Bytes of probes (in) and their answers (out) that were translated.")
		for direction, c := range map[string]Counter{"in": p.In, "out": p.Out} {
			packets.sum(c.Packets, "direction", direction)
			octets.sum(c.Bytes, "direction", direction)
		}
	}
	var b bytes.Buffer
	for _, f := range m {
		f.write(&b)
	}
	_, err := w.Write(b.Bytes())
	return err
}

// metrics are in the order in which they are written.
type metrics []*metric

// metric has all its samples. Two of the same labels would make
// the whole file invalid, so they become one sample of both.
type metric struct {
	name, help string
	samples    map[string]uint64 // by labels as written, "" or {link="enp7s0"}
}

func (m *metrics) add(name, help string) *metric {
	*m = append(*m, &metric{"egress_ip_" + name, help, map[string]uint64{}})
	return (*m)[len(*m)-1]
}

// sum adds n to the sample with these labels: names and values by turns.
func (m *metric) sum(n uint64, labels ...string) { m.samples[braced(labels)] += n }

// all makes the sample 1 if ok holds at every call with these labels, and 0 if not.
func (m *metric) all(ok bool, labels ...string) {
	key := braced(labels)
	before, again := m.samples[key]
	m.samples[key] = 0
	if ok && (!again || before == 1) {
		m.samples[key] = 1
	}
}

// write writes the metric, sorted by labels, or nothing for one without samples.
func (m *metric) write(b *bytes.Buffer) {
	if len(m.samples) == 0 {
		return
	}
	kind := "gauge"
	if strings.HasSuffix(m.name, "_total") {
		kind = "counter"
	}
	fmt.Fprintf(b, "# HELP %s %s\n# TYPE %s %s\n", m.name, m.help, m.name, kind)
	for _, labels := range slices.Sorted(maps.Keys(m.samples)) {
		fmt.Fprintf(b, "%s%s %d\n", m.name, labels, m.samples[labels])
	}
}

// escaped is what the text format asks of a label's value.
var escaped = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)

func braced(labels []string) string {
	var pairs []string
	for pair := range slices.Chunk(labels, 2) {
		pairs = append(pairs, fmt.Sprintf(`%s="%s"`, pair[0], escaped.Replace(strings.ToValidUTF8(pair[1], "\uFFFD"))))
	}
	if len(pairs) == 0 {
		return ""
	}
	return "{" + strings.Join(pairs, ",") + "}"
}
