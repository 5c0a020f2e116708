package egress

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// shortestPrefix is how much of a container ID is enough to mean it.
const shortestPrefix = 8

// Named returns the attachments of the pod that a person means: namespace/name, an
// address of the pod, or its container ID or a beginning of it. They are of one
// container; errors say which there are.
func Named(all []Attachment, name string) ([]Attachment, error) {
	found := slices.DeleteFunc(slices.Clone(all), func(a Attachment) bool { return !a.isNamed(name) })
	if slices.ContainsFunc(found, func(a Attachment) bool { return a.ContainerID == name }) {
		found = slices.DeleteFunc(found, func(a Attachment) bool { return a.ContainerID != name })
	}
	for _, a := range found {
		if a.ContainerID != found[0].ContainerID {
			return nil, fmt.Errorf("%q may mean each of these: %s; name one by its container ID", name, list(found))
		}
	}
	if len(found) > 0 {
		return found, nil
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("no pod on this node has egress, so there is no %q", name)
	}
	return nil, fmt.Errorf("no pod with egress is %q on this node; there are %s", name, list(all))
}

func (a Attachment) isNamed(name string) bool {
	if address, err := netip.ParseAddr(name); err == nil {
		return slices.ContainsFunc(a.Flows, func(f Flow) bool { return f.Pod == address.Unmap() })
	}
	if strings.Contains(name, "/") {
		return name == a.PodNamespace+"/"+a.PodName
	}
	return name == a.ContainerID || len(name) >= shortestPrefix && strings.HasPrefix(a.ContainerID, name)
}

// list names attachments for a person, not all where they are many.
func list(all []Attachment) string {
	const most = 10
	var names []string
	for _, a := range all[:min(len(all), most)] {
		names = append(names, a.Title())
	}
	if len(all) > most {
		names = append(names, fmt.Sprintf("%d more", len(all)-most))
	}
	return strings.Join(names, ", ")
}

// Title names the attachment: the pod, its addresses that have egress, its container.
func (a Attachment) Title() string {
	var words []string
	if a.PodName != "" {
		words = append(words, a.PodNamespace+"/"+a.PodName)
	}
	for _, f := range a.Flows {
		words = append(words, f.Pod.String())
	}
	return fmt.Sprintf("%s (container %s)", strings.Join(words, " "), a.ContainerID)
}
