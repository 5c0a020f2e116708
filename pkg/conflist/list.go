package conflist

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"
)

// Type is the type of egress-ip's entry, and the name of its binary.
const Type = "egress-ip"

// List is a configuration list as it is written.
type List struct {
	Name    string
	Version string // the cniVersion at which a runtime calls the plugins; empty: none is named
	Plugins []Plugin

	text []byte
	open int // offset behind the bracket that begins the plugins
}

// Plugin is one of a list.
type Plugin struct {
	Type string
	Text []byte // the object

	start, end int // its offsets
}

// Parse reads a list as runtimes do, with libcni, which takes too long to start to be
// linked into a plugin. It refuses a key that stands twice, of which libcni takes the
// last. The error is a [SyntaxError] where the text is no JSON, maybe because it is
// just being written.
func Parse(text []byte) (List, error) {
	if err := syntax(text); err != nil {
		return List{}, err
	}
	l := List{text: text}
	var others []string
	seen := map[string]bool{}
	err := walk(text, func(key string, d *json.Decoder) error {
		read := map[string]func(d *json.Decoder) error{
			"name":        func(d *json.Decoder) error { return decode(d, key, &l.Name) },
			"cniVersion":  func(d *json.Decoder) error { return decode(d, key, &l.Version) },
			"cniVersions": func(d *json.Decoder) error { return decode(d, key, &others) },
			"plugins":     l.readPlugins,
		}[key]
		if read == nil {
			return nil
		}
		if seen[key] {
			return fmt.Errorf("the key %s stands twice; runtimes take the last: remove the other", key)
		}
		seen[key] = true
		return read(d)
	})
	switch {
	case err != nil:
		return List{}, err
	case !seen["name"]:
		return List{}, errors.New("it has no key name, without which runtimes do not read it")
	case len(l.Plugins) == 0:
		return List{}, errors.New("its key plugins has none, so there is nothing that egress-ip could stand behind")
	}
	l.Version, err = newest(l.Version, others)
	return l, err
}

// ParseOne reads the configuration of one plugin, as runtimes do where a file's name does
// not end in .conflist, as a list of that plugin.
func ParseOne(conf []byte) (List, error) {
	if err := syntax(conf); err != nil {
		return List{}, err
	}
	var one types.PluginConf
	if err := json.Unmarshal(conf, &one); err != nil {
		return List{}, err
	}
	return List{Name: one.Name, Version: one.CNIVersion, Plugins: []Plugin{{Type: one.Type, Text: conf}}}, nil
}

// newest is the cniVersion that a runtime takes: the newest that the CNI library
// speaks, where there is a choice.
func newest(one string, others []string) (string, error) {
	for _, v := range others {
		beyond, err := version.GreaterThan(v, version.Current())
		if err != nil {
			return "", fmt.Errorf("cniVersions: %w", err)
		}
		if one == "" && !beyond {
			one = v
		}
		newer, err := version.GreaterThan(v, one)
		if err != nil {
			return "", fmt.Errorf("cniVersion: %w", err)
		}
		if newer && !beyond {
			one = v
		}
	}
	return one, nil
}

func decode(d *json.Decoder, key string, v any) error {
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("the key %s: %w", key, err)
	}
	return nil
}

// Text is the list as it is written.
func (l List) Text() []byte { return l.text }

// Main is the plugin that gives pods their addresses.
func (l List) Main() Plugin { return l.Plugins[0] }

// Entry returns egress-ip's entry, the first one that stands behind another plugin;
// nil if there is none.
func (l List) Entry() []byte {
	if i := l.entry(); i >= 0 {
		return l.Plugins[i].Text
	}
	return nil
}

// entry is the index of the entry that stays if there are several; -1 if none stands
// behind another plugin.
func (l List) entry() int {
	main := false
	for i, p := range l.Plugins {
		if p.Type == Type && main {
			return i
		}
		main = main || p.Type != Type
	}
	return -1
}

// HasEntry reports whether the list has an entry of egress-ip's anywhere.
func (l List) HasEntry() bool {
	return slices.ContainsFunc(l.Plugins, func(p Plugin) bool { return p.Type == Type })
}

func (l *List) readPlugins(d *json.Decoder) error {
	if first, err := d.Token(); err != nil || first != json.Delim('[') {
		return errors.Join(errors.New("its key plugins is no list, in []"), err)
	}
	l.open = int(d.InputOffset())
	l.Plugins = nil
	for d.More() {
		var text json.RawMessage
		if err := d.Decode(&text); err != nil {
			return err
		}
		var known types.PluginConf
		if err := json.Unmarshal(text, &known); err != nil || known.Type == "" {
			return fmt.Errorf("plugins[%d] is no object with a type: %s", len(l.Plugins), text)
		}
		end := int(d.InputOffset())
		l.Plugins = append(l.Plugins, Plugin{Type: known.Type, Text: text, start: end - len(text), end: end})
	}
	_, err := d.Token()
	return err
}

// SyntaxError is a text that is no JSON.
type SyntaxError struct{ err error }

func (e *SyntaxError) Error() string { return "it is no valid JSON: " + e.err.Error() }
func (e *SyntaxError) Unwrap() error { return e.err }

func syntax(text []byte) error {
	var any json.RawMessage
	if err := json.Unmarshal(text, &any); err != nil {
		return &SyntaxError{err}
	}
	return nil
}

// walk calls visit for each key of a valid JSON object, with a decoder that stands
// before the value; what visit leaves is skipped.
func walk(text []byte, visit func(key string, d *json.Decoder) error) error {
	d := json.NewDecoder(bytes.NewReader(text))
	first, err := d.Token()
	if err != nil {
		return err
	}
	if first != json.Delim('{') {
		return errors.New("it is no JSON object, in {}")
	}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return err
		}
		before := d.InputOffset()
		if err := visit(key.(string), d); err != nil {
			return err
		}
		if d.InputOffset() > before {
			continue
		}
		var skipped json.RawMessage
		if err := d.Decode(&skipped); err != nil {
			return err
		}
	}
	return nil
}

func quote(s string) []byte {
	quoted, err := json.Marshal(s)
	if err != nil {
		panic(err) // a string is always JSON
	}
	return quoted
}
