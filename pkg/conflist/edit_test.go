package conflist_test

import (
	"strings"
	"testing"

	"github.com/egress-ip/egress-ip/pkg/conflist"
	"github.com/stretchr/testify/require"
)

const entry = `{"type":"egress-ip","links":[{"name":"enp7s0"}]}`

func parse(t testing.TB, text string) conflist.List {
	t.Helper()
	l, err := conflist.Parse([]byte(text))
	require.NoError(t, err)
	return l
}

func with(t testing.TB, text, entry string) string {
	t.Helper()
	out, err := parse(t, text).With([]byte(entry))
	require.NoError(t, err)
	return string(out)
}

func without(t testing.TB, text string) string {
	t.Helper()
	out, err := parse(t, text).Without()
	require.NoError(t, err)
	return string(out)
}

// TestWith: the entry comes directly behind the main plugin, laid out as that is, and
// no other byte changes; without it the text is what it was.
func TestWith(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ before, after string }{
		"one line": {
			`{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"bridge"}]}`,
			`{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"bridge"},` + entry + `]}`,
		},
		"one line, spaces": {
			`{ "name": "n", "plugins": [ {"type": "bridge"}, {"type": "portmap"} ], "x": 1e3 }`,
			`{ "name": "n", "plugins": [ {"type": "bridge"}, ` + entry + `, {"type": "portmap"} ], "x": 1e3 }`,
		},
		"numbers, order and unknown keys": {
			"{\n  \"zzz\": 1500.0, \"name\": \"n\",\n  \"plugins\": [\n    {\n      \"mtu\": 1e3,\n      \"type\": \"bridge\",\n      \"big\": 123456789012345678901234567890\n    },\n    { \"type\" : \"portmap\" }\n  ],\n  \"aaa\": null\n}\n\n",
			"{\n  \"zzz\": 1500.0, \"name\": \"n\",\n  \"plugins\": [\n    {\n      \"mtu\": 1e3,\n      \"type\": \"bridge\",\n      \"big\": 123456789012345678901234567890\n    },\n" +
				"    {\n      \"type\": \"egress-ip\",\n      \"links\": [\n        {\n          \"name\": \"enp7s0\"\n        }\n      ]\n    },\n    { \"type\" : \"portmap\" }\n  ],\n  \"aaa\": null\n}\n\n",
		},
		"tabs": {
			"{\"name\":\"n\",\n\t\"plugins\": [\n\t\t{\n\t\t\t\"type\": \"bridge\"\n\t\t}\n\t]\n}",
			"{\"name\":\"n\",\n\t\"plugins\": [\n\t\t{\n\t\t\t\"type\": \"bridge\"\n\t\t},\n\t\t{\n\t\t\t\"type\": \"egress-ip\",\n\t\t\t\"links\": [\n\t\t\t\t{\n\t\t\t\t\t\"name\": \"enp7s0\"\n\t\t\t\t}\n\t\t\t]\n\t\t}\n\t]\n}",
		},
		"the bracket and the plugin on one line": {
			"{\"name\":\"n\",\n  \"plugins\": [{\n    \"type\": \"bridge\"\n  }, {\n    \"type\": \"portmap\"\n  }]\n}",
			"{\"name\":\"n\",\n  \"plugins\": [{\n    \"type\": \"bridge\"\n  }, {\n    \"type\": \"egress-ip\",\n    \"links\": [\n      {\n        \"name\": \"enp7s0\"\n      }\n    ]\n  }, {\n    \"type\": \"portmap\"\n  }]\n}",
		},
		"carriage returns": {
			"{\"name\":\"n\",\r\n\"plugins\": [\r\n  { \"type\": \"bridge\" }\r\n]}",
			"{\"name\":\"n\",\r\n\"plugins\": [\r\n  { \"type\": \"bridge\" },\r\n  {\r\n    \"type\": \"egress-ip\",\r\n    \"links\": [\r\n      {\r\n        \"name\": \"enp7s0\"\r\n      }\r\n    ]\r\n  }\r\n]}",
		},
		"a plugin whose values speak of egress-ip": {
			`{"name":"egress-ip","plugins":[{"type":"bridge","plugins":[{"type":"egress-ip"}],"s":"]}\"egress-ip\""}]}`,
			`{"name":"egress-ip","plugins":[{"type":"bridge","plugins":[{"type":"egress-ip"}],"s":"]}\"egress-ip\""},` + entry + `]}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, tt.after, with(t, tt.before, entry))
			require.Equal(t, tt.after, with(t, tt.after, entry))
			require.Equal(t, tt.before, without(t, tt.after))
			require.Equal(t, tt.before, without(t, tt.before))
		})
	}
}

// TestWithWhereOneStands: an entry stays where it is behind the main plugin, in the
// words in which it is written, as long as it says the same; of several one remains.
func TestWithWhereOneStands(t *testing.T) {
	t.Parallel()
	list := func(plugins ...string) string {
		return `{"name":"n","plugins":[` + strings.Join(plugins, ", ") + `]}`
	}
	const (
		bridge, portmap = `{"type":"bridge"}`, `{"type":"portmap"}`
		old, other      = `{"type":"egress-ip"}`, `{"type":"egress-ip","counters":true}`
		sameEntry       = `{ "links": [ { "name": "enp7s\u0030" } ], "type": "egress-ip" }`
	)
	for name, tt := range map[string]struct{ before, after string }{
		"another":                {list(bridge, old, portmap), list(bridge, entry, portmap)},
		"another, last":          {list(bridge, portmap, old), list(bridge, portmap, entry)},
		"the same, last":         {list(bridge, portmap, sameEntry), list(bridge, portmap, sameEntry)},
		"several":                {list(bridge, old, portmap, other, entry), list(bridge, entry, portmap)},
		"several, first stays":   {list(bridge, sameEntry, other), list(bridge, sameEntry)},
		"one before the main":    {list(old, bridge, portmap), list(bridge, entry, portmap)},
		"two before the main":    {list(old, other, bridge), list(bridge, entry)},
		"before and behind main": {list(old, bridge, other), list(bridge, entry)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			after := with(t, tt.before, entry)
			require.Equal(t, strings.ReplaceAll(tt.after, " ", ""), strings.ReplaceAll(after, " ", ""))
			require.Equal(t, after, with(t, after, entry))
		})
	}
	require.Equal(t, list(bridge, portmap), without(t, list(bridge, old, portmap, other)))
	for _, n := range []string{"9007199254740993", "9007199254740992", "9007199254740992.0"} { // one and the same, to a float64
		entry := `{"type":"egress-ip","cni.dev/n":` + n + `}`
		require.Equal(t, list(bridge, entry), with(t, list(bridge, `{"type":"egress-ip","cni.dev/n":9.007199254740992e15}`), entry))
		require.Equal(t, list(bridge, entry), with(t, list(bridge, `{"type":"egress-ip","cni.dev/n":9007199254740994}`), entry))
	}
	_, err := parse(t, list(old)).Without()
	require.ErrorContains(t, err, "egress-ip is the only plugin in it")
}

// TestWithLaidOut: an entry of several lines keeps them, also when it was in a list
// before and comes into another one.
func TestWithLaidOut(t *testing.T) {
	t.Parallel()
	const (
		laid   = "{\r\n  \"type\": \"egress-ip\",\n  \"links\": [{ \"name\": \"a\" },\n            { \"name\": \"b\" }]\n}"
		before = "{\"name\":\"n\",\n\t\"plugins\": [\n\t\t{ \"type\": \"a\" }\n\t]\n}"
		after  = "{\"name\":\"n\",\n\t\"plugins\": [\n\t\t{ \"type\": \"a\" },\n\t\t{\n\t\t  \"type\": \"egress-ip\",\n\t\t  \"links\": [{ \"name\": \"a\" },\n\t\t            { \"name\": \"b\" }]\n\t\t}\n\t]\n}"
	)
	require.Equal(t, after, with(t, before, laid))
	require.Equal(t, before, without(t, after))
	require.Equal(t, after, with(t, before, string(parse(t, after).Entry())))
	require.Equal(t, `{"name":"n","plugins":[{"type":"a"},{"type":"egress-ip","links":[{"name":"a"},{"name":"b"}]}]}`,
		with(t, `{"name":"n","plugins":[{"type":"a"}]}`, string(parse(t, after).Entry())))
}
