package config

import (
	"bytes"
	"encoding/json"
	"flag"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const schemaFile = "../../conflist-examples/entry.schema.json"

var update = flag.Bool("update", false, "write "+schemaFile)

// schema is what a JSON schema, draft 2020-12, has of an entry.
type schema struct {
	Draft       string     `json:"$schema,omitempty"`
	Title       string     `json:"title,omitempty"`
	Description string     `json:"description,omitempty"`
	Type        any        `json:"type,omitempty"`
	Ref         string     `json:"$ref,omitempty"`
	Const       any        `json:"const,omitempty"`
	Enum        any        `json:"enum,omitempty"`
	Default     any        `json:"default,omitempty"`
	Minimum     *int64     `json:"minimum,omitempty"`
	Maximum     *int64     `json:"maximum,omitempty"`
	Pattern     string     `json:"pattern,omitempty"`
	AnyOf       []schema   `json:"anyOf,omitempty"`
	Not         *schema    `json:"not,omitempty"`
	MinItems    int        `json:"minItems,omitempty"`
	MaxItems    int        `json:"maxItems,omitempty"`
	MaxMembers  *int       `json:"maxProperties,omitempty"`
	Items       *schema    `json:"items,omitempty"`
	Required    []string   `json:"required,omitempty"`
	Properties  properties `json:"properties,omitempty"`
	Patterns    properties `json:"patternProperties,omitempty"`
	Additional  any        `json:"additionalProperties,omitempty"`
	Definitions properties `json:"$defs,omitempty"`
}

// properties keep their order.
type properties []property

type property struct {
	key   string
	value schema
}

func (p properties) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	for i, member := range p {
		b.WriteByte("{,"[min(i, 1)])
		if err := e.Encode(member.key); err != nil {
			return nil, err
		}
		b.WriteByte(':')
		if err := e.Encode(member.value); err != nil {
			return nil, err
		}
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// Parts of patterns. They have only what ECMA-262 and RE2 have in common.
const (
	octet = `(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])`
	ip4   = `(?:` + octet + `\.){3}` + octet
	group = `[0-9a-fA-F]{1,4}`
	ip6   = `(?:(?:` + group + `:){7}` + group + `|(?:` + group + `:){6}` + ip4 +
		`|(?:` + group + `(?::` + group + `){0,6})?::(?:(?:` + group + `:){0,6}(?:` + group + `|` + ip4 + `))?)`
	bits4     = `(?:3[0-2]|[12]?[0-9])`
	bits6     = `(?:12[0-8]|1[01][0-9]|[1-9]?[0-9])`
	inBracket = `(?:[^\\\]-]|\\[\s\S])`
	linkLocal = `[fF][eE][89abAB][0-9a-fA-F]:`
	multicast = `[fF][fF][0-9a-fA-F]{2}:|2(?:2[4-9]|3[0-9])\.`
	noHost    = `::1?$|127\.|0\.0\.0\.0$|255\.255\.255\.255$`
)

func ref(name string) string { return "#/$defs/" + name }

// definitions are what strings of an entry are, as far as a pattern can say it.
func definitions() properties {
	matches := func(pattern string) schema { return schema{Pattern: "^(?:" + pattern + ")$"} }
	butNot := func(pattern string) *schema { return &schema{Type: "string", Pattern: pattern} }
	var modes []any
	for _, m := range probeModes {
		modes = append(modes, m)
	}
	return properties{
		{"address", matches(ip4 + `|` + ip6)},
		{"addresses", matches(` *(?:` + ip4 + `|` + ip6 + `) *(?:, *(?:` + ip4 + `|` + ip6 + `) *)?`)},
		{"nextHop", schema{Ref: ref("address"), Not: butNot("^(?:" + noHost + `|` + multicast + ")")}},
		{"linkLocal", schema{Ref: ref("address"), Pattern: "^" + linkLocal}},
		{"globalIPv6", schema{Ref: ref("address"), Pattern: ":", Not: butNot("^(?:" + noHost + `|` + multicast + `|` + linkLocal + ")")}},
		{"network", matches(ip4 + `(?:/` + bits4 + `)?|` + ip6 + `(?:/` + bits6 + `)?`)},
		{"clusterNetwork", schema{Ref: ref("network"), Not: butNot("/0$")}},
		{"glob", matches(`(?:[^\\\[]|\\[\s\S]|\[\^?(?:` + inBracket + `(?:-` + inBracket + `)?)+\])+`)},
		{"linkName", schema{Pattern: `^[^/: \t\n\v\f\r*?\[\\]{1,15}$`, Not: &schema{Enum: []string{".", ".."}}}},
		{"linkPattern", schema{AnyOf: []schema{{Ref: ref("linkName")}, {Ref: ref("glob"), Pattern: `[*?\[\\]`}}}},
		{"mask", matches(`0[xX][0-9a-fA-F_]+|0[bB][01_]+|0[oO]?[0-7_]+|[1-9][0-9_]*|0`)},
		{"probeMode", schema{Enum: append(modes, nil)}},
		{"type", schema{Const: "egress-ip"}},
		{"empty", schema{Type: orNull("object"), MaxMembers: new(int)}},
	}
}

// table is the table of keys: its types, and their comments.
type table struct {
	t        *testing.T
	comments map[string]string // by "type" and "type.field"
}

func readTable(t *testing.T) table {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "wire.go", nil, parser.ParseComments)
	require.NoError(t, err)
	c := map[string]string{}
	text := func(g *ast.CommentGroup) string { return strings.Join(strings.Fields(g.Text()), " ") }
	for _, d := range file.Decls {
		types, ok := d.(*ast.GenDecl)
		if !ok {
			continue
		}
		for _, s := range types.Specs {
			of, ok := s.(*ast.TypeSpec)
			if !ok {
				continue
			}
			c[of.Name.Name] = text(types.Doc)
			for _, f := range of.Type.(*ast.StructType).Fields.List {
				for _, name := range f.Names {
					c[of.Name.Name+"."+name.Name] = text(f.Doc)
				}
			}
		}
	}
	return table{t, c}
}

// entry is the whole schema.
func (tb table) entry() schema {
	s := tb.object(reflect.TypeFor[wire]())
	s.Draft, s.Title = "https://json-schema.org/draft/2020-12/schema", "egress-ip's entry in a CNI configuration list"
	s.Description = "Generated from pkg/config/wire.go by `go generate ./pkg/config`. Null is as if the key were omitted."
	s.Type = "object"
	s.Patterns = properties{{"^cni\\.dev/", schema{Description: "Keys of the CNI specification, which the runtime adds."}}}
	s.Not = &schema{
		Description: "Counters need the source check.",
		Required:    []string{"counters", "sourceCheck"},
		Properties:  properties{{"counters", schema{Const: true}}, {"sourceCheck", schema{Const: false}}},
	}
	s.Definitions = definitions()
	return s
}

func (tb table) object(of reflect.Type) schema {
	s := schema{Additional: false}
	for _, f := range reflect.VisibleFields(of) {
		if f.Anonymous {
			continue
		}
		holder := of
		if len(f.Index) > 1 {
			holder = of.Field(f.Index[0]).Type
		}
		key := f.Tag.Get("json")
		p := tb.value(f.Type)
		p.Description = tb.comments[holder.Name()+"."+f.Name]
		require.NotEmpty(tb.t, p.Description, "%s.%s has no comment", holder.Name(), f.Name)
		if n, ok := numbers[key]; ok {
			p.Minimum, p.Maximum, p.Default = &n.low, &n.high, n.without
		}
		if d, ok := f.Tag.Lookup("default"); ok {
			p.Default = d
			if f.Type.Elem().Kind() == reflect.Bool {
				b, err := strconv.ParseBool(d)
				require.NoError(tb.t, err)
				p.Default = b
			}
		}
		if tag, ok := f.Tag.Lookup("schema"); ok {
			tb.constrain(&s, &p, key, tag)
		}
		s.Properties = append(s.Properties, property{key, p})
	}
	s.Type = orNull("object")
	if len(s.Required) > 0 {
		s.Type = "object" // null lacks what is required
	}
	return s
}

// orNull are the values of a type, and null: the parser takes that for a key that is omitted.
func orNull(name string) []string { return []string{name, "null"} }

// constrain adds what the tag schema of a key says.
func (tb table) constrain(object, p *schema, key, tag string) {
	for word := range strings.SplitSeq(tag, ",") {
		name, number, isNumber := strings.Cut(word, "=")
		n, err := strconv.Atoi(number)
		require.Equal(tb.t, isNumber, err == nil, "%s: %s", key, word)
		switch {
		case name == "required":
			object.Required = append(object.Required, key)
			p.Type = p.Type.([]string)[0]
		case name == "min":
			p.MinItems = n
		case name == "max":
			p.MaxItems = n
		case p.Items != nil:
			p.Items.Ref = ref(name)
		default:
			p.Ref = ref(name)
		}
	}
}

func (tb table) value(of reflect.Type) schema {
	if of == reflect.TypeFor[json.RawMessage]() {
		return schema{}
	}
	switch of.Kind() {
	case reflect.Pointer:
		return tb.value(of.Elem())
	case reflect.String:
		return schema{Type: orNull("string")}
	case reflect.Bool:
		return schema{Type: orNull("boolean")}
	case reflect.Int64:
		return schema{Type: orNull("integer")}
	case reflect.Map:
		s := schema{Type: orNull("object")}
		if of.Elem().Kind() == reflect.Bool {
			s.Additional = tb.value(of.Elem())
		}
		return s
	case reflect.Slice:
		items := tb.value(of.Elem())
		if of.Elem().Kind() == reflect.String {
			items.Type = "string" // null is an empty string, and that is never right
		}
		items.Description = tb.comments[of.Elem().Name()]
		return schema{Type: orNull("array"), Items: &items}
	case reflect.Struct:
		return tb.object(of)
	}
	require.Fail(tb.t, "no JSON", "%s", of)
	return schema{}
}

// TestSchemaIsCurrent: conflist-examples/entry.schema.json says what the table of keys says.
// `go generate ./pkg/config` writes it.
func TestSchemaIsCurrent(t *testing.T) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	require.NoError(t, e.Encode(readTable(t).entry()))
	if *update {
		require.NoError(t, os.WriteFile(schemaFile, b.Bytes(), 0o644))
	}
	have, err := os.ReadFile(schemaFile)
	require.NoError(t, err)
	require.Equal(t, b.String(), string(have), "run `go generate ./pkg/config`")
}

// TestDefaultsOfTheSchema: an entry that says what the schema names as defaults is one that
// says nothing.
func TestDefaultsOfTheSchema(t *testing.T) {
	defaults := 0
	var object func(s schema) map[string]any
	object = func(s schema) map[string]any {
		all := map[string]any{}
		for _, p := range s.Properties {
			switch {
			case p.value.Default != nil:
				all[p.key] = p.value.Default
				defaults++
			case len(p.value.Properties) > 0:
				all[p.key] = object(p.value)
			case p.value.Items != nil && len(p.value.Items.Properties) > 0 && len(p.value.Items.Required) == 0:
				all[p.key] = []any{object(*p.value.Items)}
			}
		}
		return all
	}
	entry, err := json.Marshal(object(readTable(t).entry()))
	require.NoError(t, err)
	require.Positive(t, defaults)

	named, err := ParseEntry(entry)
	require.NoError(t, err)
	omitted, err := ParseEntry([]byte(`{"links":[{}]}`))
	require.NoError(t, err)
	require.Equal(t, omitted, named)
}
