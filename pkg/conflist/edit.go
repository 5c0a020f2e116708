package conflist

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"slices"
	"strings"
)

// With returns the list with this entry and no other of egress-ip's: where one
// stands behind the main plugin already, or directly behind the main plugin. A list
// that says the same already is returned as it is.
func (l List) With(entry []byte) ([]byte, error) {
	l, err := l.keep(List.entry)
	if err != nil {
		return nil, err
	}
	if i := l.entry(); i >= 0 {
		p := l.Plugins[i]
		if same(p.Text, entry) {
			return l.text, nil
		}
		return splice(l.text, p.start, p.end, l.format(entry)), nil
	}
	main := l.Main()
	between := string(l.text[l.open:main.start])
	if between == "" && bytes.ContainsRune(main.Text, '\n') {
		between = " "
	}
	return splice(l.text, main.end, main.end, append([]byte(","+between), l.format(entry)...)), nil
}

// Without returns the list without any entry of egress-ip's. What With has put in
// is taken out to the byte.
func (l List) Without() ([]byte, error) {
	l, err := l.keep(func(List) int { return -1 })
	return l.text, err
}

// keep returns the list without entries of egress-ip's but the one at an index.
func (l List) keep(one func(List) int) (List, error) {
	for i := len(l.Plugins) - 1; i >= 0; i-- {
		if l.Plugins[i].Type != Type || i == one(l) {
			continue
		}
		var err error
		if l, err = l.remove(i); err != nil {
			return List{}, err
		}
	}
	return l, nil
}

// remove takes a plugin out, with the comma and the space that join it to the one
// before. A list of none is an error.
func (l List) remove(i int) (List, error) {
	if len(l.Plugins) == 1 {
		return List{}, errors.New("egress-ip is the only plugin in it, and a list of none is invalid; delete the file")
	}
	from, to := l.Plugins[i].start, l.Plugins[i].end
	if i > 0 {
		from = l.Plugins[i-1].end
	} else {
		to = l.Plugins[1].start
	}
	return Parse(splice(l.text, from, to, nil))
}

func splice(text []byte, from, to int, in []byte) []byte {
	return slices.Concat(text[:from], in, text[to:])
}

// format lays an entry out as the main plugin is: on one line, or indented so. One
// that is of several lines keeps them.
func (l List) format(entry []byte) []byte {
	main := l.Main()
	before, text := string(l.text[l.open:main.start]), string(main.Text)
	if !strings.Contains(before+text, "\n") {
		var b bytes.Buffer
		if err := json.Compact(&b, entry); err != nil {
			return entry
		}
		return b.Bytes()
	}
	prefix := before[strings.LastIndex(before, "\n")+1:]
	if !strings.Contains(before, "\n") {
		prefix = space(text[strings.LastIndex(text, "\n")+1:])
	}
	step := "  "
	if _, rest, ok := strings.Cut(text, "\n"); ok {
		if deeper, ok := strings.CutPrefix(space(rest), prefix); ok && deeper != "" {
			step = deeper
		}
	}
	laid := indent(entry, prefix, step)
	if lines := dedent(entry); bytes.Contains(lines, []byte("\n")) {
		laid = bytes.ReplaceAll(lines, []byte("\n"), []byte("\n"+prefix))
	}
	if strings.Contains(before+text, "\r\n") {
		laid = bytes.ReplaceAll(laid, []byte("\n"), []byte("\r\n"))
	}
	return laid
}

// dedent takes off each line what its last line is indented by. JSON has newlines
// only between its tokens.
func dedent(text []byte) []byte {
	text = bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n"))
	last := text[bytes.LastIndexByte(text, '\n')+1:]
	return bytes.ReplaceAll(text, []byte("\n"+space(string(last))), []byte("\n"))
}

// space returns the blanks and tabs that a text begins with.
func space(text string) string {
	return text[:len(text)-len(strings.TrimLeft(text, " \t"))]
}

// indent lays valid JSON out; numbers and strings stay as written.
func indent(text []byte, prefix, step string) []byte {
	var b bytes.Buffer
	if err := json.Indent(&b, text, prefix, step); err != nil {
		return text
	}
	return b.Bytes()
}

// same reports whether two texts are the same JSON, numbers as written.
func same(a, b []byte) bool {
	x, errX := value(a)
	y, errY := value(b)
	return errX == nil && errY == nil && reflect.DeepEqual(x, y)
}

func value(text []byte) (v any, err error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	err = d.Decode(&v)
	return v, err
}
