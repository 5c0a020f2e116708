// Package conflist puts egress-ip's entry into a CNI configuration list and takes
// it out again, in the text: other plugins and keys stay as they are written. It knows
// no files; package install does.
package conflist

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

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

	head, tail []byte // up to the bracket that begins the plugins, and behind the last of them
}

// Plugin is one of a list.
type Plugin struct {
	Type string
	Text []byte // the object

	gap []byte // the white space before it
}

// Parse reads a list as runtimes do, with libcni, which takes too long to start to be
// linked into a plugin. The error is a [json.SyntaxError] where the text is not JSON, maybe
// because it is just being written.
func Parse(text []byte) (List, error) {
	list, err := object(text)
	if err != nil {
		return List{}, err
	}
	var l List
	var ok bool
	if l.Name, ok = list["name"].(string); !ok {
		return List{}, errors.New("it has no key name with a string, without which runtimes do not read it")
	}
	if l.Version, err = newest(list); err != nil {
		return List{}, err
	}
	if err := l.readPlugins(text); err != nil {
		return List{}, err
	}
	if len(l.Plugins) == 0 {
		return List{}, errors.New("its key plugins has none, so egress-ip has no main plugin to follow")
	}
	return l, nil
}

// ParseOne reads the configuration of one plugin, as runtimes do where a file's name does
// not end in .conflist, as a list of that plugin.
func ParseOne(conf []byte) (List, error) {
	if _, err := object(conf); err != nil {
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
func newest(list map[string]any) (string, error) {
	named, has := list["cniVersion"]
	one, ok := named.(string)
	if has && !ok {
		return "", fmt.Errorf("cniVersion: %v is not a string", named)
	}
	choice, has := list["cniVersions"]
	several, ok := choice.([]any)
	if has && !ok {
		return "", fmt.Errorf("cniVersions: %v is not a list", choice)
	}
	var best string
	for _, v := range append(several, one) {
		v, ok := v.(string)
		if !ok {
			return "", errors.New("cniVersions: not all of them are strings")
		}
		beyond, err := version.GreaterThan(v, version.Current())
		if err != nil && has {
			return "", fmt.Errorf("cniVersions: %w", err)
		}
		if newer, _ := version.GreaterThan(v, best); !beyond && (newer || best == "") {
			best = v
		}
	}
	return cmp.Or(best, one), nil
}

// readPlugins finds the plugins in the text of an object. Of several keys of that name it
// takes the last, as runtimes do.
func (l *List) readPlugins(text []byte) error {
	d := json.NewDecoder(bytes.NewReader(text))
	if _, err := d.Token(); err != nil { // the brace
		return err
	}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return err
		}
		if key != "plugins" {
			var skipped json.RawMessage
			if err := d.Decode(&skipped); err != nil {
				return err
			}
			continue
		}
		if first, err := d.Token(); err != nil || first != json.Delim('[') {
			return errors.Join(errors.New("its key plugins is not a list, in []"), err)
		}
		end := d.InputOffset()
		l.Plugins, l.head = nil, text[:end]
		for d.More() {
			var p json.RawMessage
			if err := d.Decode(&p); err != nil {
				return err
			}
			var known types.PluginConf
			if err := json.Unmarshal(p, &known); err != nil || known.Type == "" {
				return fmt.Errorf("plugins[%d] is not an object with a type: %s", len(l.Plugins), p)
			}
			between := text[end : d.InputOffset()-int64(len(p))]
			l.Plugins = append(l.Plugins, Plugin{known.Type, p, bytes.ReplaceAll(between, []byte(","), nil)})
			end = d.InputOffset()
		}
		l.tail = text[end:]
		if _, err := d.Token(); err != nil { // the bracket
			return err
		}
	}
	return nil
}

// Main is the plugin that gives pods their addresses.
func (l List) Main() Plugin { return l.Plugins[0] }

// Entry returns egress-ip's entry, the first if there are several; nil if there is none.
func (l List) Entry() []byte {
	for _, p := range l.Plugins {
		if p.Type == Type {
			return p.Text
		}
	}
	return nil
}

// With returns the list's text with this entry and no other of egress-ip's, in the place
// of the first or directly behind the main plugin.
func (l List) With(entry []byte) ([]byte, error) {
	plugins, err := l.others()
	if err != nil {
		return nil, err
	}
	main := plugins[0]
	text, err := layout(entry, slices.Concat(l.head, main.gap, main.Text))
	at := max(1, slices.IndexFunc(l.Plugins, isOurs))
	return l.with(slices.Insert(plugins, at, Plugin{Type, text, main.gap})), err
}

// Without returns the list's text without any entry of egress-ip's.
func (l List) Without() ([]byte, error) {
	plugins, err := l.others()
	return l.with(plugins), err
}

func isOurs(p Plugin) bool { return p.Type == Type }

// others returns the plugins but for egress-ip.
func (l List) others() ([]Plugin, error) {
	plugins := slices.DeleteFunc(slices.Clone(l.Plugins), isOurs)
	if len(plugins) == 0 {
		return nil, errors.New("egress-ip is the only plugin in it, and a list of none is invalid; delete the file")
	}
	return plugins, nil
}

// with writes the list with these plugins.
func (l List) with(plugins []Plugin) []byte {
	text := bytes.Clone(l.head)
	for i, p := range plugins {
		if i > 0 {
			text = append(text, ',')
		}
		text = slices.Concat(text, p.gap, p.Text)
	}
	return append(text, l.tail...)
}

// layout writes an entry on one line if all before it is on one line, or else indented as
// the last line of that.
func layout(entry, before []byte) ([]byte, error) {
	var b bytes.Buffer
	i := bytes.LastIndexByte(before, '\n')
	if i < 0 {
		err := json.Compact(&b, entry)
		return b.Bytes(), err
	}
	line := string(before[i+1:])
	err := json.Indent(&b, entry, line[:len(line)-len(strings.TrimLeft(line, " \t"))], "  ")
	return b.Bytes(), err
}

// Same reports whether two texts are the same JSON, numbers as written.
func Same(a, b []byte) bool {
	x, errX := object(a)
	y, errY := object(b)
	return errX == nil && errY == nil && reflect.DeepEqual(x, y)
}

// object decodes a JSON object, with numbers as written.
func object(text []byte) (map[string]any, error) {
	var v any
	if err := json.Unmarshal(text, new(json.RawMessage)); err != nil {
		return nil, fmt.Errorf("it is not valid JSON: %w", err)
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		return nil, err
	}
	if o, ok := v.(map[string]any); ok {
		return o, nil
	}
	return nil, errors.New("it is not a JSON object, in {}")
}
