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
	var b bytes.Buffer
	for _, f := range s.families(version) {
		f.write(&b)
	}
	_, err := w.Write(b.Bytes())
	return err
}

// families returns every metric, in the order in which they are written.
func (s Status) families(version string) []*family {
	var (
		build      = gauge("egress_ip_build_info", "1, labelled with the version of egress-ip.")
		healthy    = gauge("egress_ip_healthy", "1 if nothing is missing, unrecorded or unread, every link is up, and the guard drops nothing.")
		missing    = gauge("egress_ip_missing", "What is recorded but not in the kernel, of all pods, links and the probe table.")
		unrecorded = gauge("egress_ip_unrecorded", "What is egress-ip's in the kernel but recorded nowhere.")
		unread     = gauge("egress_ip_unread", "Parts of the node that could not be read, so nothing is said of them.")
		linkUp     = gauge("egress_ip_link_up", "1 if the egress link can send.")
		linkPods   = gauge("egress_ip_link_pods", "Pods that are recorded on the egress link.")
		podHealthy = gauge("egress_ip_pod_healthy", "1 if the pod address leaves as the annotation says: nothing that it needs is missing, and its link is up.")
		podPackets = counter("egress_ip_pod_sent_packets_total", "Packets that the pod address sent to its egress link.")
		podBytes   = counter("egress_ip_pod_sent_bytes_total", "Bytes that the pod address sent to its egress link.")
		dropped    = gauge("egress_ip_dropped_packets", "Packets of the pod address that the guard has dropped: they would have left by the link with another source, or by the wrong link. Of what was dropped in the last 5 minutes.")
		forged     = gauge("egress_ip_forged_packets", "Packets with the pod address as their source that were dropped, as they arrived by the link and not from the pod. Of what was dropped in the last 5 minutes.")
		packets    = counter("egress_ip_probe_translated_packets_total", "Probes (in) and their answers (out) that were translated.")
		octets     = counter("egress_ip_probe_translated_bytes_total", "Bytes of probes (in) and their answers (out) that were translated.")
	)
	build.add(1, "version", version)
	healthy.add(truth(s.Healthy))
	missing.add(uint64(s.missing()))
	unrecorded.add(uint64(len(s.Unrecorded)))
	unread.add(uint64(len(s.Unread)))
	for _, l := range s.Links {
		linkUp.all(l.State == LinkUp, "link", l.Name, "table", decimal(uint64(l.Table)))
		linkPods.add(uint64(l.Pods), "link", l.Name)
	}
	for _, p := range s.Pods {
		labels := []string{
			"namespace", p.Namespace, "pod", p.Name,
			"pod_address", p.Address.String(), "egress_address", p.EgressAddress.String(), "link", p.Link,
		}
		podHealthy.all(p.State == PodHealthy, labels...)
		if p.Sent != nil {
			podPackets.add(p.Sent.Packets, labels...)
			podBytes.add(p.Sent.Bytes, labels...)
		}
	}
	for _, d := range s.Dropped {
		dropped.add(d.Packets, "pod_address", d.Address.String(), "link", d.Link)
	}
	for _, d := range s.Forged {
		forged.add(d.Packets, "pod_address", d.Address.String(), "link", d.Link)
	}
	if p := s.Probe; p != nil {
		packets.add(p.In.Packets, "direction", "in")
		packets.add(p.Out.Packets, "direction", "out")
		octets.add(p.In.Bytes, "direction", "in")
		octets.add(p.Out.Bytes, "direction", "out")
	}
	return []*family{build, healthy, missing, unrecorded, unread, linkUp, linkPods, podHealthy, podPackets, podBytes, dropped, forged, packets, octets}
}

// family is one metric with all its samples. Two of the same labels would make
// the whole file invalid, so they become one sample of both.
type family struct {
	name, kind, help string
	samples          map[string]uint64 // by labels as written, "" or {link="enp7s0"}
}

func gauge(name, help string) *family   { return &family{name, "gauge", help, map[string]uint64{}} }
func counter(name, help string) *family { return &family{name, "counter", help, map[string]uint64{}} }

// add adds n to the sample with these labels: names and values by turns.
func (f *family) add(n uint64, labels ...string) { f.samples[braced(labels)] += n }

// all makes the sample 1 if ok holds at every call with these labels.
func (f *family) all(ok bool, labels ...string) {
	key := braced(labels)
	before, again := f.samples[key]
	f.samples[key] = truth(ok && (!again || before == 1))
}

// write writes the family, sorted by labels, or nothing for one without samples.
func (f *family) write(b *bytes.Buffer) {
	if len(f.samples) == 0 {
		return
	}
	fmt.Fprintf(b, "# HELP %s %s\n# TYPE %s %s\n", f.name, f.help, f.name, f.kind)
	for _, labels := range slices.Sorted(maps.Keys(f.samples)) {
		fmt.Fprintf(b, "%s%s %d\n", f.name, labels, f.samples[labels])
	}
}

// escaped is what the text format asks of a label's value.
var escaped = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)

func braced(labels []string) string {
	if len(labels) == 0 {
		return ""
	}
	var b strings.Builder
	for i := 0; i < len(labels); i += 2 {
		separator := ","
		if i == 0 {
			separator = "{"
		}
		value := strings.ToValidUTF8(labels[i+1], "\uFFFD")
		b.WriteString(separator + labels[i] + `="` + escaped.Replace(value) + `"`)
	}
	return b.String() + "}"
}

func truth(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}
