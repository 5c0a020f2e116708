package integration

import (
	"testing"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
)

// byDefault is the entry with these defaults.
func byDefault(defaults ...object) object { return egressIP(object{"defaults": defaults}) }

// in makes ADD, or another call, of a pod of another namespace than "payments".
func (d *direct) in(t *testing.T, namespace, command string, a annotations) (string, error) {
	t.Helper()
	return d.cluster.plugin(call{
		command: command, containerID: d.id, netns: d.Path(),
		stdin: request(t, d.entry, a, d.addresses...), args: "K8S_POD_NAMESPACE=" + namespace + ";K8S_POD_NAME=" + d.id,
	})
}

// TestDefaults: pods without an annotation leave as the first element of defaults says that matches their namespace; those with
// one as that says.
func TestDefaults(t *testing.T) {
	t.Parallel()
	c := newNode(t)
	c.masquerade(t)
	entry := byDefault(
		object{"namespaces": []string{"plain"}},
		object{"namespaces": []string{"pay*"}, "address": egress4 + "," + egress6},
		object{"namespaces": []string{"*"}, "link": nettest.SecondLink},
	)
	entry["links"] = []object{{"name": nettest.SecondLink, "allow": []object{
		{"namespaces": []string{"payments"}, "addresses": []string{"192.168.124.96/28", "fd00:124::90/124"}}, {"namespaces": []string{"*"}},
	}}}
	for i, tt := range []struct {
		namespace   string
		annotations annotations
		ipv4, ipv6  string
		by          string
	}{
		{"payments", nil, egress4, egress6, "defaults[1]"},
		{"payments", annotations{"example.com/other": "x"}, egress4, egress6, "defaults[1]"},
		{"payments", address(other4 + "," + other6), other4, other6, "annotation"},
		{"plain", nil, nettest.PrimaryIPv4, nettest.PrimaryIPv6, ""},
		{"anything", nil, nettest.SecondIPv4, nettest.SecondIPv6, "defaults[2]"},
		{"", nil, nettest.SecondIPv4, nettest.SecondIPv6, "defaults[2]"},
	} {
		d := c.newDirect(t, string(rune('a'+i)), "10.244.1.5", "fd00:10:244::5", entry)
		_, err := d.in(t, tt.namespace, "ADD", tt.annotations)
		require.NoError(t, err)
		d.requireSeen(t, tt.ipv4, tt.ipv6)
		_, err = d.in(t, tt.namespace, "CHECK", tt.annotations)
		require.NoError(t, err)
		out, _ := c.status(t, 0, "-o", "json")
		if tt.by == "" {
			require.NotContains(t, out, `"origin"`)
		} else {
			require.Contains(t, out, `"origin": "`+tt.by+`"`)
		}
		d.del(t)
		d.die(t)
		c.requireNoAttachment(t)
	}
}

// TestDefaultsWithoutAnnotations: the runtime hands over no annotations at all.
func TestDefaultsWithoutAnnotations(t *testing.T) {
	t.Parallel()
	c := newNode(t)
	entry := byDefault(object{"namespaces": []string{"payments"}, "address": egress4 + "," + egress6})
	delete(entry, "capabilities")
	entry["runtimeConfig"] = object{}
	d := c.newDirect(t, "pod", "10.244.1.5", "fd00:10:244::5", entry)
	d.add(t, nil)
	d.requireSeen(t, egress4, egress6)
	text, _ := c.status(t, 0)
	require.Contains(t, text, "defaults[0]")
	explained, _, exit := c.explain(t, "payments/pod")
	require.Zero(t, exit)
	require.Contains(t, explained, "As defaults[0] says")
}

// TestDefaultsRefused: what cannot be honoured fails the ADD of the pods that the element selects, and nobody else's; the
// message names the element, its value, and what to do.
func TestDefaultsRefused(t *testing.T) {
	t.Parallel()
	payments := []string{"payments"}
	for name, tt := range map[string]struct {
		entry   object
		message string
	}{
		"not allowed":          {byDefault(object{"namespaces": payments, "address": "192.168.124.50"}), `defaults[0].address: \"192.168.124.50\"`},
		"no address":           {byDefault(object{"namespaces": []string{"x"}}, object{"namespaces": payments, "address": "192.168.124"}), `defaults[1].address: \"192.168.124\"`},
		"link not there":       {byDefault(object{"namespaces": payments, "link": "enp9s0"}), `defaults[0].link: \"enp9s0\": there is no such link`},
		"another key mistaken": {egressIP(object{"defaults": []object{{"namespaces": payments, "address": egress4}}, "rulePriority": 1}), "rulePriority"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newNode(t)
			c.masquerade(t)
			before := c.state(t)
			d := c.newDirect(t, "pod", "10.244.1.5", "fd00:10:244::5", tt.entry)
			_, err := d.in(t, "payments", "ADD", nil)
			require.ErrorContains(t, err, tt.message)
			d.die(t)
			require.Equal(t, before, c.state(t))
			c.requireNoAttachment(t)
			plain := c.newDirect(t, "plain", "10.244.1.6", "fd00:10:244::6", tt.entry)
			_, err = plain.in(t, "other", "ADD", nil)
			require.NoError(t, err)
			plain.requireSeen(t, nettest.PrimaryIPv4, nettest.PrimaryIPv6)
		})
	}
}
