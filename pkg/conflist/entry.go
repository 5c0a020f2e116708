package conflist

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/egress-ip/egress-ip/pkg/config"
)

// ProbeOnly is the entry with which egress-ip keeps the probe table alone.
const ProbeOnly = `{"type":"egress-ip","capabilities":` + capabilities + `}`

// capabilities make a runtime hand over the pod's annotations.
const capabilities = `{"io.kubernetes.cri.pod-annotations":true}`

// Entry completes an entry with type and capabilities where it lacks them, and checks it as
// ADD does.
func Entry(text []byte) ([]byte, error) {
	has, err := object(text)
	if err != nil {
		return nil, err
	}
	if is, ok := has["type"]; ok && is != Type {
		return nil, fmt.Errorf("type: %#v must be %q", is, Type)
	}
	var missing []byte
	if has["type"] == nil {
		missing = fmt.Appendf(missing, `"type":%q,`, Type)
	}
	if _, ok := has["capabilities"]; !ok {
		missing = fmt.Appendf(missing, `"capabilities":%s,`, capabilities)
	}
	if len(has) == 0 {
		missing = bytes.TrimSuffix(missing, []byte(","))
	}
	text = bytes.TrimSpace(text)
	complete := slices.Concat([]byte("{"), missing, text[1:])
	return complete, config.Validate(complete)
}
