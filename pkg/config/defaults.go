package config

import (
	"encoding/json"
	"fmt"
	"net/netip"
)

// ApplyDefaults makes a pod without an annotation of egress-ip's ask for what the first element of the entry's
// defaults says whose namespaces match. It reads no other key, so that a mistake elsewhere in the entry does
// not make plain what the element selects. The error is an [AnnotationError] or an [InvalidError].
func (r *Request) ApplyDefaults(entry []byte, cniArgs string) error {
	var w struct {
		Defaults []json.RawMessage `json:"defaults"`
	}
	if err := decodeLoosely(entry, &w); err != nil || len(w.Defaults) == 0 {
		return nil // what cannot be read selects no pod; [ParseEntry] says what is wrong
	}
	namespace, _, err := pod(cniArgs)
	if err != nil {
		namespace = ""
	}
	for i, element := range w.Defaults {
		var of struct {
			Namespaces []string `json:"namespaces"`
		}
		if decodeLoosely(element, &of) != nil || !matchesNamespace(of.Namespaces, namespace) {
			continue
		}
		var d wireDefault
		if err := decodeLoosely(element, &d); err != nil {
			return &InvalidError{fmt.Errorf("%s: %w", defaultKey(i), err)}
		}
		r.Origin = defaultKey(i)
		return r.parseAnnotations(d.annotations())
	}
	return nil
}

func defaultKey(i int) string { return fmt.Sprintf("defaults[%d]", i) }

// annotations are those that the pods count as having.
func (d wireDefault) annotations() map[string]string {
	annotations := map[string]string{}
	for key, value := range map[string]*string{AddressAnnotation: d.Address, LinkAnnotation: d.Link} {
		if value != nil {
			annotations[key] = *value
		}
	}
	return annotations
}

// parseDefault checks an element as far as it can be checked without a pod.
func parseDefault(i int, d wireDefault) (Default, error) {
	key := defaultKey(i)
	if len(d.Namespaces) == 0 {
		return Default{}, fmt.Errorf("%s.namespaces is empty, so the element is for no pod; list namespaces or globs, \"*\" is all", key)
	}
	for j, n := range d.Namespaces {
		if err := checkGlob(fmt.Sprintf("%s.namespaces[%d]", key, j), n); err != nil {
			return Default{}, err
		}
	}
	// A pod with an address of each family, so that nothing but the values can be wrong.
	r := Request{Origin: key, PodAddresses: []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}}
	if err := r.parseAnnotations(d.annotations()); err != nil {
		return Default{}, err
	}
	return Default{Namespaces: d.Namespaces, Annotations: d.annotations()}, nil
}
