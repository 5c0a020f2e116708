package conflist_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/egress-ip/egress-ip/pkg/conflist"
	"github.com/stretchr/testify/require"
)

// FuzzList: whatever list Parse takes, libcni takes with the same name, version and
// plugins. With an entry it has that once and else the same plugins, to the byte; again
// it does not change; without it, it says what it said.
func FuzzList(f *testing.F) {
	examples, err := filepath.Glob("../../conflist-examples/*.conflist")
	require.NoError(f, err)
	require.NotEmpty(f, examples)
	for _, path := range examples {
		text, err := os.ReadFile(path)
		require.NoError(f, err)
		f.Add(text)
	}
	for _, text := range []string{
		`{"name":"n","plugins":[{"type":"egress-ip"},{"type":"egress-ip"},{"type":"a"},{"type":"egress-ip"}]}`,
		`{"name":"n","cniVersions":["0.4.0","1.0.0","9.0.0"],"plugins":[{"type":"a"}]}`,
		`{"name":"n","name":"m","plugins":[{"type":"a"}],"plugins":[{"type":"b"}]}`,
		"{\"name\":\"n\",\"plugins\"\n:\t[ \r\n{\"type\":\"a\"}\n ]\n}\n",
		`{"name":"n","plugins":[{"type":"a"}]} {}`,
		`{"name":"n","plugins":{"type":"a"}}`,
		`{"Name":"n","Plugins":[{"Type":"a"}]}`,
		`{"name":"n","plugins":[null,{"type":"a"}]}`,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		before, err := conflist.Parse(text)
		if err != nil {
			return
		}
		requireAsLibcni(t, before, text)
		original, err := before.Without()
		if err != nil {
			return // there is no main plugin
		}
		if before.Entry() == nil {
			require.True(t, conflist.Same(text, original))
		}
		for _, e := range []string{conflist.ProbeOnly, entry} {
			after, err := before.With([]byte(e))
			require.NoError(t, err)
			l, err := conflist.Parse(after)
			require.NoError(t, err)
			requireAsLibcni(t, l, after)
			require.JSONEq(t, e, string(l.Entry()))
			require.Equal(t, 1, count(l))
			require.Equal(t, others(before), others(l))
			again, err := l.With([]byte(e))
			require.NoError(t, err)
			require.Equal(t, string(after), string(again))
			gone, err := l.Without()
			require.NoError(t, err)
			require.Equal(t, string(original), string(gone))
		}
	})
}

func requireAsLibcni(t *testing.T, l conflist.List, text []byte) {
	t.Helper()
	known, err := libcni.NetworkConfFromBytes(text)
	require.NoError(t, err)
	require.Equal(t, known.Name, l.Name)
	require.Equal(t, known.CNIVersion, l.Version)
	require.Len(t, l.Plugins, len(known.Plugins))
	for i, p := range known.Plugins {
		require.Equal(t, p.Network.Type, l.Plugins[i].Type)
		require.True(t, json.Valid(l.Plugins[i].Text))
	}
}

func others(l conflist.List) (texts []string) {
	for _, p := range l.Plugins {
		if p.Type != conflist.Type {
			texts = append(texts, string(p.Text))
		}
	}
	return texts
}

func count(l conflist.List) int {
	return len(slices.DeleteFunc(slices.Clone(l.Plugins), func(p conflist.Plugin) bool { return p.Type != conflist.Type }))
}

// FuzzEntry: what Entry lets through stays so, is of our type, and asks for annotations
// unless it says otherwise itself.
func FuzzEntry(f *testing.F) {
	for _, text := range []string{entry, conflist.ProbeOnly, `{}`, `[]`, `{"type":"bridge"}`, `{"type":"egress-ip","type":"egress-ip"}`, `{"capabilities":{}}`, `{"tableBase":1e3}`} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		complete, err := conflist.Entry(text)
		if err != nil {
			return
		}
		again, err := conflist.Entry(complete)
		require.NoError(t, err)
		require.Equal(t, string(complete), string(again))
		var have, given map[string]any
		require.NoError(t, json.Unmarshal(complete, &have))
		require.NoError(t, json.Unmarshal(text, &given))
		require.Equal(t, conflist.Type, have["type"])
		if _, says := given["capabilities"]; !says {
			require.Equal(t, map[string]any{"io.kubernetes.cri.pod-annotations": true}, have["capabilities"])
		}
	})
}
