package conflist

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
)

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
