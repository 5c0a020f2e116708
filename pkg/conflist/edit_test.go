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

// TestWith: the entry comes directly behind the main plugin, on one line or indented as that is,
// and the rest stays as it is written; without the entry the text is what it was.
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
			"{\"name\":\"n\",\n\t\"plugins\": [\n\t\t{\n\t\t\t\"type\": \"bridge\"\n\t\t},\n\t\t{\n\t\t  \"type\": \"egress-ip\",\n\t\t  \"links\": [\n\t\t    {\n\t\t      \"name\": \"enp7s0\"\n\t\t    }\n\t\t  ]\n\t\t}\n\t]\n}",
		},
		"the bracket and the plugin on one line": {
			"{\"name\":\"n\",\n  \"plugins\": [{\n    \"type\": \"bridge\"\n  }, {\n    \"type\": \"portmap\"\n  }]\n}",
			"{\"name\":\"n\",\n  \"plugins\": [{\n    \"type\": \"bridge\"\n  },{\n    \"type\": \"egress-ip\",\n    \"links\": [\n      {\n        \"name\": \"enp7s0\"\n      }\n    ]\n  }, {\n    \"type\": \"portmap\"\n  }]\n}",
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

// TestWithWhereOneStands: an entry stays where it is behind the main plugin; of several one
// remains.
func TestWithWhereOneStands(t *testing.T) {
	t.Parallel()
	list := func(plugins ...string) string {
		return `{"name":"n","plugins":[` + strings.Join(plugins, ", ") + `]}`
	}
	const (
		bridge, portmap = `{"type":"bridge"}`, `{"type":"portmap"}`
		old, other      = `{"type":"egress-ip"}`, `{"type":"egress-ip","counters":true}`
	)
	for name, tt := range map[string]struct{ before, after string }{
		"another":                {list(bridge, old, portmap), list(bridge, entry, portmap)},
		"another, last":          {list(bridge, portmap, old), list(bridge, portmap, entry)},
		"several":                {list(bridge, old, portmap, other, entry), list(bridge, entry, portmap)},
		"several, first stays":   {list(bridge, entry, other), list(bridge, entry)},
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
	_, err := parse(t, list(old)).Without()
	require.ErrorContains(t, err, "egress-ip is the only plugin in it")
}

// TestSame: white space, the order of keys and how a string is written make no difference; every
// digit of a number does, and so does the order of a list.
func TestSame(t *testing.T) {
	t.Parallel()
	const text = `{"a":9007199254740993,"b":["x","y"]}`
	for other, want := range map[string]bool{
		text: true,
		"{ \"b\": [ \"x\", \"\\u0079\" ],\n\"a\": 9007199254740993 }": true,
		`{"a":9007199254740992,"b":["x","y"]}`:                        false, // the same to a float64
		`{"a":9007199254740993,"b":["y","x"]}`:                        false,
		`{"a":9007199254740993,"b":["x","y"]`:                         false,
		``:                                                            false,
	} {
		require.Equal(t, want, conflist.Same([]byte(text), []byte(other)), other)
	}
}
