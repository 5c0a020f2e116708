package egress

import (
	"encoding/json"
	"net/netip"
	"time"
)

// Shape is a text that two attachments have in common if they need the same objects, those
// aside that are a pod's own: then one of them can speak for both.
func (a Attachment) Shape() (string, error) {
	a.Owner, a.Network, a.PodNamespace, a.PodName, a.Since, a.Origin = Owner{}, "", "", "", time.Time{}, ""
	flows := make([]Flow, len(a.Flows))
	for i, f := range a.Flows {
		f.Pod = map[Family]netip.Addr{IPv4: netip.IPv4Unspecified(), IPv6: netip.IPv6Unspecified()}[f.Family()]
		if f.In != 0 {
			f.In = 1 // where a pod is decides about its own element alone, whether it is known about a chain
		}
		if f.MAC != "" {
			f.MAC = "known"
		}
		flows[i] = f
	}
	a.Flows = flows
	text, err := json.Marshal(a)
	return string(text), err
}
