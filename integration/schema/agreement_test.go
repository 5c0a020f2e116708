package schema

import (
	"encoding/json"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/stretchr/testify/require"
)

// spellings are values that the parser takes in some place, and some that it takes in none.
var spellings = []any{
	nil, true, false, json.Number("3"), json.Number("256"), json.Number("32765"), json.Number("2147483647"), json.Number("1e3"), json.Number("-0"),
	[]any{}, map[string]any{}, []any{nil}, []any{"*"}, []any{map[string]any{}}, "",
	"10.0.0.0", "0.0.0.0", "255.255.255.255/32", "128.0.0.0/1", "9.9.9.9/9", "1.2.3.4/0",
	"::", "::1", "1::", "FD00::ABCD", "1:2:3:4:5:6:7:8", "1:2:3:4:5:6:7::", "::2:3:4:5:6:7:8", "::1.2.3.4", "1:2:3:4:5:6:1.2.3.4", "1:2:3:4:5::1.2.3.4",
	"2000::/3", "::/128", "ff00::/8", "febf::1", "fec0::1", "0fe8::1", "64:ff9b::/96", "::ffff:1.2.3.4",
	"0xF0", "0X00f00000", "0x0f00_0000", "0b11", "0B1_1", "0o17", "0O17", "017", "0_17", "3", "2_51", "0",
	"*", "a?", "[a]", "[^a-z]", "[a-c-]", "[]a]", `[\]]`, `\*`, `\`, "[[]", "a]", "^", "é*", "a\n*", "[\n-\u2028]", "enp7s0", "a.b", "...", "ééééééé", "éééééééé",
	"auto", "always", "never",
}

// absent omits a key, where it is put in the place of a key's value.
var absent = new(int)

// places calls f for every place of a document, with what is there and a function that puts
// something else there.
func places(there any, put func(any), f func(there any, put func(any))) {
	f(there, put)
	switch v := there.(type) {
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(v)) {
			places(v[key], func(other any) {
				if v[key] = other; other == any(absent) {
					delete(v, key)
				}
			}, f)
		}
	case []any:
		for i := range v {
			places(v[i], func(other any) { v[i] = other }, f)
		}
	}
}

// edit adds, removes or replaces a character.
func edit(r *rand.Rand, s string) string {
	const characters = "0123456789abcdefxoFXB:./_-*?[]^\\ %"
	runes := []rune(s)
	at := r.IntN(len(runes) + 1)
	in := []rune{rune(characters[r.IntN(len(characters))])}
	rest := runes[at:]
	if len(rest) > 0 && r.IntN(2) == 0 {
		rest = rest[1:]
		if r.IntN(2) == 0 {
			in = nil
		}
	}
	return string(runes[:at]) + string(in) + string(rest)
}

func requireAgreement(t *testing.T, s *jsonschema.Schema, entry []byte) (valid bool) {
	t.Helper()
	if byParser(entry) != nil {
		return false
	}
	require.NoError(t, bySchema(s, entry), "the parser takes %s", entry)
	return true
}

// decode reads the example into what places takes.
func decode(t *testing.T) (document any) {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(example))
	d.UseNumber()
	require.NoError(t, d.Decode(&document))
	return document
}

// TestTypes: in each place both take the same types.
func TestTypes(t *testing.T) {
	t.Parallel()
	s := compile(t)
	document := decode(t)
	refused := 0
	places(document, func(other any) { document = other }, func(there any, put func(any)) {
		defer put(there)
		for _, other := range []any{true, json.Number("7"), "x", []any{}, map[string]any{}} {
			if reflect.TypeOf(other) == reflect.TypeOf(there) {
				continue
			}
			put(other)
			entry, err := json.Marshal(document)
			require.NoError(t, err)
			if !requireAgreement(t, s, entry) {
				refused++
				require.Error(t, bySchema(s, entry), "the parser refuses %s", entry)
			}
		}
	})
	require.Positive(t, refused)
}

// TestSchemaRefusesNoMore: what the schema refuses the parser refuses, too, whatever is in
// whichever place.
func TestSchemaRefusesNoMore(t *testing.T) {
	t.Parallel()
	s := compile(t)
	document := decode(t)
	r := rand.New(rand.NewPCG(1, 2))
	tried, valid := 0, 0
	places(document, func(other any) { document = other }, func(there any, put func(any)) {
		defer put(there)
		try := func(other any) {
			put(other)
			entry, err := json.Marshal(document)
			require.NoError(t, err)
			tried++
			if requireAgreement(t, s, entry) {
				valid++
			}
		}
		for _, other := range slices.Concat(spellings, []any{there, absent}) {
			try(other)
			if text, ok := other.(string); ok {
				for range 4 {
					try(edit(r, text))
				}
			}
		}
	})
	require.Greater(t, valid, tried/10, "the parser has to take some")
}

// FuzzSchema: it refuses no more, whatever the text.
func FuzzSchema(f *testing.F) {
	s := compile(f)
	f.Add([]byte(example))
	f.Fuzz(func(t *testing.T, entry []byte) { requireAgreement(t, s, entry) })
}
