package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/types/create"
)

// The names that a user writes, and the key under which they arrive.
const (
	annotationPrefix  = "egress-ip.cni/"
	AddressAnnotation = annotationPrefix + "address"
	LinkAnnotation    = annotationPrefix + "link"

	annotationsCapability = "io.kubernetes.cri.pod-annotations"
)

var limitedBroadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})

// Request is what a pod asks for.
type Request struct {
	ContainerID  string
	IfName       string
	PodNamespace string // empty where the runtime names none
	PodName      string

	PodAddresses []netip.Addr // from prevResult
	// HostInterfaces are the links of the node that the plugins before have made for
	// the pod, and PodMAC the link-layer address of its interface; as far as prevResult has them.
	HostInterfaces []string
	PodMAC         string

	// Addresses are the egress addresses that the annotation names, at most one per address
	// family; Link is the annotation of that name. Both empty: no annotation.
	Addresses []netip.Addr
	Link      string
	// Origin is the element of the entry that says so instead of annotations, "defaults[0]"; empty: annotations.
	Origin string

	// PrevResult is what the plugins before have made; ADD hands it on, as CNIVersion
	// has it.
	PrevResult types.Result
	CNIVersion string
}

// Annotated reports whether the pod asks for anything.
func (r Request) Annotated() bool { return len(r.Addresses) > 0 || r.Link != "" }

// AnnotationError is an annotation that cannot be honoured.
type AnnotationError struct {
	Annotation string // the whole key
	Origin     string // the element of defaults that has it in the annotation's place; empty: none
	Value      string
	Problem    string // what is wrong and what to do
}

func (e *AnnotationError) Error() string {
	return fmt.Sprintf("%s: %q: %s", keyOf(e.Annotation, e.Origin), e.Value, e.Problem)
}

// keyOf is where the value of an annotation is written.
func keyOf(annotation, origin string) string {
	if origin == "" {
		return "annotation " + annotation
	}
	return origin + "." + strings.TrimPrefix(annotation, annotationPrefix)
}

// LinkKey is where the request's link is written, or would be.
func (r Request) LinkKey() string { return keyOf(LinkAnnotation, r.Origin) }

// AddressKey is where the request's addresses are written, or would be.
func (r Request) AddressKey() string { return keyOf(AddressAnnotation, r.Origin) }

// AddressError is what is wrong with the addresses of the address annotation.
func (r Request) AddressError(problem string) error {
	var values []string
	for _, a := range r.Addresses {
		values = append(values, a.String())
	}
	return &AnnotationError{AddressAnnotation, r.Origin, strings.Join(values, ","), problem}
}

// LinkError is what is wrong with the link annotation.
func (r Request) LinkError(problem string) error {
	return &AnnotationError{LinkAnnotation, r.Origin, r.Link, problem}
}

// InvalidError is what is wrong with anything but an annotation; it names the
// key or the variable, and the value.
type InvalidError struct{ err error }

func (e *InvalidError) Error() string { return e.err.Error() }
func (e *InvalidError) Unwrap() error { return e.err }

// ParseRequest reads what must be readable for any pod: whether it is annotated, and
// what the plugins before have made. The entry itself may have any mistake. Errors are
// an [AnnotationError] or an [InvalidError].
func ParseRequest(args *skel.CmdArgs) (Request, error) {
	var w wireCall
	if err := decode(args.StdinData, &w); err != nil {
		return Request{}, &InvalidError{err}
	}
	r := Request{ContainerID: args.ContainerID, IfName: args.IfName, CNIVersion: w.CNIVersion}
	if err := r.parsePrevResult(w); err != nil {
		return Request{}, &InvalidError{err}
	}
	annotations, err := annotationsOf(w)
	if err != nil {
		return Request{}, &InvalidError{err}
	}
	if err := r.parseAnnotations(annotations); err != nil {
		return Request{}, err
	}
	return r, nil
}

// NamePod reads the pod's namespace and name from CNI_ARGS. The error is an
// [InvalidError].
func (r *Request) NamePod(cniArgs string) (err error) {
	if r.PodNamespace, r.PodName, err = pod(cniArgs); err != nil {
		return &InvalidError{err}
	}
	return nil
}

// pod reads CNI_ARGS, whose pairs come in any order and beside others.
func pod(cniArgs string) (namespace, name string, err error) {
	var known struct {
		types.CommonArgs
		K8S_POD_NAMESPACE types.UnmarshallableString //nolint:revive // the name is the key
		K8S_POD_NAME      types.UnmarshallableString
	}
	if cniArgs == "" {
		return "", "", nil
	}
	// Keys of others are none of our business, whether or not the runtime says so.
	if err := types.LoadArgs(cniArgs+";IgnoreUnknown=1", &known); err != nil {
		return "", "", fmt.Errorf("CNI_ARGS %q: %w", cniArgs, err)
	}
	return string(known.K8S_POD_NAMESPACE), string(known.K8S_POD_NAME), nil
}

func (r *Request) parsePrevResult(w wireCall) error {
	if len(w.PrevResult) == 0 || string(w.PrevResult) == "null" {
		return errors.New("no prevResult: egress-ip comes after the plugin that gives the pod its addresses; put it last in the conflist's plugins")
	}
	// The library follows the elements of these without a look.
	var lists struct{ IPs, Interfaces, Routes []any }
	if err := json.Unmarshal(w.PrevResult, &lists); err != nil {
		return fmt.Errorf("prevResult: %w", err)
	}
	if slices.Contains(slices.Concat(lists.IPs, lists.Interfaces, lists.Routes), nil) {
		return errors.New("prevResult: an element of ips, interfaces or routes is null; the plugin before egress-ip must leave it out")
	}
	result, err := create.Create(w.CNIVersion, w.PrevResult)
	if err != nil {
		return fmt.Errorf("prevResult: %w", err)
	}
	current, err := types100.NewResultFromResult(result)
	if err != nil {
		return fmt.Errorf("prevResult: %w", err)
	}
	r.PrevResult = result
	for _, i := range current.Interfaces {
		switch {
		case i.Sandbox == "":
			r.HostInterfaces = append(r.HostInterfaces, i.Name)
		case i.Name == r.IfName:
			r.PodMAC = i.Mac
		}
	}
	for i, ip := range current.IPs {
		if ip.Interface != nil {
			at := *ip.Interface
			if at < 0 || at >= len(current.Interfaces) {
				return fmt.Errorf("prevResult: ips[%d] names interface %d, but there are %d", i, at, len(current.Interfaces))
			}
			if current.Interfaces[at].Sandbox == "" {
				continue // the node's end
			}
		}
		a, ok := netip.AddrFromSlice(ip.Address.IP)
		if !ok {
			return fmt.Errorf("prevResult: ips[%d] has no address", i)
		}
		a = a.Unmap()
		if a.IsUnspecified() || a.IsLinkLocalUnicast() || a.IsMulticast() || slices.Contains(r.PodAddresses, a) {
			continue
		}
		r.PodAddresses = append(r.PodAddresses, a)
	}
	return nil
}

func annotationsOf(w wireCall) (map[string]string, error) {
	raw, ok := w.Runtime[annotationsCapability]
	if !ok {
		return nil, nil
	}
	var annotations map[string]string
	if err := json.Unmarshal(raw, &annotations); err != nil {
		return nil, fmt.Errorf("runtimeConfig[%q] is no map of strings: %w", annotationsCapability, err)
	}
	return annotations, nil
}

func (r *Request) parseAnnotations(annotations map[string]string) error {
	for _, key := range slices.Sorted(maps.Keys(annotations)) {
		if !isOurs(key) {
			continue
		}
		value := annotations[key]
		var err error
		switch key {
		case AddressAnnotation:
			r.Addresses, err = parseAddresses(value)
		case LinkAnnotation:
			r.Link = value
			if value == "" || checkGlob(key, value) != nil {
				err = errors.New("is no name of a link; name one of the node's, or leave it out")
			}
		default:
			err = unknownAnnotation(key)
		}
		if err != nil {
			return &AnnotationError{key, r.Origin, value, err.Error()}
		}
	}
	if !r.Annotated() {
		return nil
	}
	if len(r.PodAddresses) == 0 {
		return r.anyError("prevResult has no address of the pod, so there is nothing to translate; egress-ip must come after the plugin that gives pods their addresses")
	}
	if len(r.Addresses) > 0 && !slices.ContainsFunc(r.Addresses, r.hasFamilyOf) {
		return r.AddressError(fmt.Sprintf("the pod has no address of that family, only %s; name an egress address of an address family that it has", join(r.PodAddresses)))
	}
	return nil
}

// isOurs reports whether an annotation is egress-ip's, known or not. Kubernetes takes
// a key in any case, so one that is ours but for its case is meant for egress-ip.
func isOurs(key string) bool {
	domain, _, ok := strings.Cut(key, "/")
	return ok && strings.EqualFold(domain+"/", annotationPrefix)
}

func unknownAnnotation(key string) error {
	for _, known := range []string{AddressAnnotation, LinkAnnotation} {
		if strings.EqualFold(key, known) {
			return fmt.Errorf("is not known; write the key as %s", known)
		}
	}
	return fmt.Errorf("is not known; egress-ip reads %s and %s", AddressAnnotation, LinkAnnotation)
}

func (r Request) hasFamilyOf(a netip.Addr) bool {
	return slices.ContainsFunc(r.PodAddresses, func(p netip.Addr) bool { return p.Is4() == a.Is4() })
}

// anyError blames the annotation that is there, the address before the link.
func (r Request) anyError(problem string) error {
	if len(r.Addresses) > 0 {
		return r.AddressError(problem)
	}
	return r.LinkError(problem)
}

func parseAddresses(value string) ([]netip.Addr, error) {
	var addresses []netip.Addr
	for s := range strings.SplitSeq(value, ",") {
		s = strings.TrimSpace(s)
		if s == "" {
			return nil, errors.New("is empty or has an empty element; write at most one address per address family, comma-separated")
		}
		if strings.Contains(s, "/") {
			return nil, fmt.Errorf("%q has a prefix length; write the address alone", s)
		}
		a, err := netip.ParseAddr(s)
		if err != nil {
			return nil, fmt.Errorf("%q is no IP address; write one such as 192.168.124.99 or fd00:124::99", s)
		}
		if problem := unusable(a); problem != "" {
			return nil, fmt.Errorf("%s %s; name a unicast address of the link's network", s, problem)
		}
		for _, other := range addresses {
			if other.Is4() == a.Is4() {
				return nil, fmt.Errorf("%s and %s are of one address family; a pod has at most one egress address per address family", other, a)
			}
		}
		addresses = append(addresses, a)
	}
	return addresses, nil
}

// unusable says why an address can never be a pod's source, whatever the link.
func unusable(a netip.Addr) string {
	switch {
	case a.Zone() != "":
		return "has a zone"
	case a.Is4In6():
		return "is an IPv4 address in IPv6 form"
	case a.IsUnspecified():
		return "is the unspecified address"
	case a.IsLoopback():
		return "is a loopback address"
	case a.IsMulticast():
		return "is a multicast address"
	case a.IsLinkLocalUnicast():
		return "is a link-local address"
	case a == limitedBroadcast:
		return "is the broadcast address"
	}
	return ""
}

func join(addresses []netip.Addr) string {
	var s []string
	for _, a := range addresses {
		s = append(s, a.String())
	}
	return strings.Join(s, " and ")
}

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
