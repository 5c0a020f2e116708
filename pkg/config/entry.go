package config

import "encoding/json"

// Validate reports what is wrong with a configuration, whatever else stdin holds.
func Validate(stdin []byte) error {
	_, err := ParseEntry(stdin)
	return err
}

// ParseEntry reads an entry of a conflist, without what a runtime adds to it. The
// error is an [InvalidError].
func ParseEntry(entry []byte) (Config, error) {
	c, err := parse(entry)
	if err != nil {
		return Config{}, &InvalidError{err}
	}
	return c, nil
}

// MissesCapability reports whether links are configured but the runtime is not
// asked for annotations, so that every pod would pass as a plain one.
func MissesCapability(stdin []byte) bool {
	var w struct {
		Links        []json.RawMessage `json:"links"`
		Capabilities map[string]any    `json:"capabilities"`
	}
	return json.Unmarshal(stdin, &w) == nil && len(w.Links) > 0 && w.Capabilities[annotationsCapability] != true
}
