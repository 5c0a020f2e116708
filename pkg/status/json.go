package status

import (
	"bytes"
	"encoding/json"
	"io"
)

// WriteJSON writes the value as an indented JSON object.
func (s Status) WriteJSON(w io.Writer) error {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(s.withLists()); err != nil {
		return err
	}
	_, err := w.Write(b.Bytes())
	return err
}
