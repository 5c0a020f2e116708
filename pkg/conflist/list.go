package conflist

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

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
	if !has {
		return one, nil
	}
	several, ok := choice.([]any)
	if !ok {
		return "", fmt.Errorf("cniVersions: %v is not a list", choice)
	}
	var best string
	for _, v := range append(several, one) {
		v, ok := v.(string)
		if !ok {
			return "", errors.New("cniVersions: not all of them are strings")
		}
		beyond, err := version.GreaterThan(v, version.Current())
		if err != nil {
			return "", fmt.Errorf("cniVersions: %w", err)
		}
		if newer, _ := version.GreaterThan(v, best); !beyond && (newer || best == "") {
			best = v
		}
	}
	if best == "" {
		best = one
	}
	return best, nil
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
