package conflist

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/egress-ip/egress-ip/pkg/config"
)

// ProbeOnly is the entry with which egress-ip keeps the probe table alone.
const ProbeOnly = `{"type":"egress-ip","capabilities":` + capabilities + `}`

// capabilities make a runtime hand over the pod's annotations.
const capabilities = `{"io.kubernetes.cri.pod-annotations":true}`

// Entry completes an entry with type and capabilities where it lacks them, and
// checks it as ADD does, and that no key stands twice. Keys stay in order, and one
// that lacks nothing as it is laid out.
func Entry(text []byte) ([]byte, error) {
	if err := syntax(text); err != nil {
		return nil, err
	}
	var typed, capable bool
	var rest bytes.Buffer
	err := walk(text, func(key string, d *json.Decoder) error {
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return err
		}
		capable = capable || key == "capabilities"
		if key == "type" && !typed {
			typed = true
			var is any
			if err := json.Unmarshal(value, &is); err != nil {
				return err
			}
			if is != Type {
				return fmt.Errorf("type: %s must be %q", value, Type)
			}
			return nil
		}
		fmt.Fprintf(&rest, ",%s:%s", quote(key), value)
		return nil
	})
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, `{"type":%q`, Type)
	if !capable {
		fmt.Fprintf(&b, `,"capabilities":%s`, capabilities)
	}
	fmt.Fprintf(&b, "%s}", &rest)
	complete := b.Bytes()
	if typed && capable {
		complete = bytes.TrimSpace(text)
	}
	if err := config.Validate(complete); err != nil {
		return nil, err
	}
	return complete, nil
}
