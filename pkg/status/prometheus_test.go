package status_test

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/egress-ip/egress-ip/pkg/status"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/stretchr/testify/require"
)

// sample is one of a metric: its labels, as `name=value` by name, and its value.
type sample struct {
	labels string
	value  float64
}

// scrape parses the value's metrics as Prometheus does. It refuses, as node_exporter
// does and this parser does not, a sample that is there twice and a timestamp.
func scrape(t *testing.T, s status.Status) (samples map[string][]sample, kinds map[string]dto.MetricType) {
	t.Helper()
	var b bytes.Buffer
	require.NoError(t, s.WritePrometheus(&b, "v1.2.3"))
	requireContiguous(t, b.String())
	var parser expfmt.TextParser
	families, err := parser.TextToMetricFamilies(&b)
	require.NoError(t, err)

	samples, kinds = map[string][]sample{}, map[string]dto.MetricType{}
	for name, f := range families {
		require.NotEmpty(t, f.GetHelp(), name)
		kinds[name] = f.GetType()
		for _, m := range f.GetMetric() {
			require.Nil(t, m.TimestampMs, name)
			have := sample{labelsOf(m), m.GetGauge().GetValue() + m.GetCounter().GetValue()}
			require.NotContains(t, labels(samples[name]), have.labels, "%s twice", name)
			samples[name] = append(samples[name], have)
		}
	}
	return samples, kinds
}

func labelsOf(m *dto.Metric) string {
	var all []string
	for _, l := range m.GetLabel() {
		all = append(all, l.GetName()+"="+l.GetValue())
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

func labels(samples []sample) []string {
	var all []string
	for _, s := range samples {
		all = append(all, s.labels)
	}
	return all
}

// requireContiguous wants HELP, TYPE and at least one sample of each family, and
// then nothing of it any more.
func requireContiguous(t *testing.T, out string) {
	t.Helper()
	var parts []string // "help NAME", "type NAME", "sample NAME": each once
	for line := range strings.Lines(out) {
		fields := strings.Fields(line)
		name, _, _ := strings.Cut(fields[0], "{")
		part := "sample " + name
		if fields[0] == "#" {
			part = strings.ToLower(fields[1]) + " " + fields[2]
		}
		if len(parts) == 0 || parts[len(parts)-1] != part {
			require.NotContains(t, parts, part)
			parts = append(parts, part)
		}
	}
	require.Zero(t, len(parts)%3)
	for family := range slices.Chunk(parts, 3) {
		name := strings.TrimPrefix(family[0], "help ")
		require.Equal(t, []string{"help " + name, "type " + name, "sample " + name}, family)
	}
}

const (
	billing = "egress_address=192.168.124.98 link=enp7s0 namespace=payments pod=billing pod_address=10.244.1.7"
	jailed  = "egress_address=192.168.125.99 link=enp8s0 namespace= pod= pod_address=10.244.1.6"
	shopped = "egress_address=192.168.124.99 link=enp7s0 namespace=payments pod=shop-7d9f8 pod_address=10.244.1.5"
)

func TestPrometheus(t *testing.T) {
	t.Parallel()
	samples, kinds := scrape(t, broken())
	require.Equal(t, map[string][]sample{
		"egress_ip_build_info": {{"version=v1.2.3", 1}},
		"egress_ip_healthy":    {{"", 0}},
		"egress_ip_missing":    {{"", 7}},
		"egress_ip_unrecorded": {{"", 1}},
		"egress_ip_unread":     {{"", 0}},

		"egress_ip_link_up":   {{"link=enp7s0 table=1134", 1}, {"link=enp8s0 table=1135", 0}},
		"egress_ip_link_pods": {{"link=enp7s0", 2}, {"link=enp8s0", 1}},

		"egress_ip_dropped_packets": {{"link=wg0 pod_address=10.244.1.7", 12}},
		"egress_ip_forged_packets":  {{"link=veth7 pod_address=10.244.1.5", 1}},

		"egress_ip_pod_healthy":            {{jailed, 0}, {billing, 0}, {shopped, 0}},
		"egress_ip_pod_sent_packets_total": {{billing, 1234}, {shopped, 1234}},
		"egress_ip_pod_sent_bytes_total":   {{billing, 567890}, {shopped, 567890}},

		"egress_ip_probe_translated_packets_total": {{"direction=in", 40}, {"direction=out", 39}},
		"egress_ip_probe_translated_bytes_total":   {{"direction=in", 3200}, {"direction=out", 3120}},
	}, samples)
	for name, kind := range kinds {
		want := dto.MetricType_GAUGE
		if strings.HasSuffix(name, "_total") {
			want = dto.MetricType_COUNTER
		}
		require.Equal(t, want, kind, name)
	}
}

// TestPrometheusNothing: a family without samples is left out.
func TestPrometheusNothing(t *testing.T) {
	t.Parallel()
	samples, _ := scrape(t, status.New(status.Status{}))
	require.Equal(t, []string{"egress_ip_build_info", "egress_ip_healthy", "egress_ip_missing", "egress_ip_unread", "egress_ip_unrecorded"},
		slices.Sorted(maps.Keys(samples)))
	require.Equal(t, []sample{{"", 1}}, samples["egress_ip_healthy"])
}

// TestPrometheusLabels: names come from outside; each arrives as it is.
func TestPrometheusLabels(t *testing.T) {
	t.Parallel()
	for _, name := range []string{
		`\`, `\\`, `"`, `\"`, `"\`, "\n", `\n`, "\\\n", `a",pod="b`, `{}`, `}`, `} 1`, `,`, `=`, ` `, "# TYPE", "tab\t", "\r", "Straße",
		`a\"`, `a\\"`, `ends with \`,
	} {
		pod := shop("10.244.1.5", "192.168.124.99")
		pod.Namespace, pod.Name, pod.Link = name, name, name
		link := enp7s0()
		link.Name = name
		samples, _ := scrape(t, status.New(status.Status{Links: []status.Link{link}, Pods: []status.Pod{pod}}))
		require.Equal(t, []sample{{fmt.Sprintf("link=%s table=1134", name), 1}}, samples["egress_ip_link_up"])
		require.Equal(t, []sample{{fmt.Sprintf("egress_address=192.168.124.99 link=%[1]s namespace=%[1]s pod=%[1]s pod_address=10.244.1.5", name), 567890}},
			samples["egress_ip_pod_sent_bytes_total"])
	}
	link := enp7s0()
	link.Name = "not\xffUTF-8"
	samples, _ := scrape(t, status.New(status.Status{Links: []status.Link{link}}))
	require.Equal(t, []sample{{"link=not\uFFFDUTF-8", 1}}, samples["egress_ip_link_pods"])
}

// TestPrometheusTwice: two pods with the same labels become one sample, which has
// what both sent and is healthy if both are; in either order.
func TestPrometheusTwice(t *testing.T) {
	t.Parallel()
	whole, ill := shop("10.244.1.5", "192.168.124.99"), shop("10.244.1.5", "192.168.124.99")
	ill.ContainerID, ill.Sent, ill.Missing = "0", &status.Counter{Packets: 1, Bytes: 10}, []string{"rule"}
	whole.State, ill.State = status.PodHealthy, "1 missing"
	link, again := enp7s0(), enp7s0()
	again.Index, again.Table, again.Pods = 140, 1140, 2
	for _, pods := range [][]status.Pod{{whole, ill}, {ill, whole}} {
		samples, _ := scrape(t, status.Status{Links: []status.Link{link, again}, Pods: pods})
		require.Equal(t, []sample{{shopped, 0}}, samples["egress_ip_pod_healthy"])
		require.Equal(t, []sample{{shopped, 1235}}, samples["egress_ip_pod_sent_packets_total"])
		require.Equal(t, []sample{{shopped, 567900}}, samples["egress_ip_pod_sent_bytes_total"])
		require.Equal(t, []sample{{"link=enp7s0", 3}}, samples["egress_ip_link_pods"])
		require.Len(t, samples["egress_ip_link_up"], 2)
	}
	samples, _ := scrape(t, status.Status{Pods: []status.Pod{whole, whole}})
	require.Equal(t, []sample{{shopped, 1}}, samples["egress_ip_pod_healthy"])
}

// TestPrometheusLarge: no number is rounded on its way out.
func TestPrometheusLarge(t *testing.T) {
	t.Parallel()
	pod := shop("10.244.1.5", "192.168.124.99")
	pod.Sent.Bytes = 1<<64 - 1
	var b bytes.Buffer
	require.NoError(t, status.New(status.Status{Pods: []status.Pod{pod}}).WritePrometheus(&b, "v1.2.3"))
	require.Contains(t, b.String(), "} 18446744073709551615\n")
}
