package egress

import (
	"net/netip"
	"slices"
)

// Probe is the table ip6 egress_ip_probe: by which links probes come in, and
// their source as sent and as pods see it. The zero Probe is no table.
type Probe struct {
	Links      []string   `json:"links"` // sorted, no link twice
	Source     netip.Addr `json:"source"`
	Translated netip.Addr `json:"translated"`
}

// Stands reports whether there is to be a table at all.
func (p Probe) Stands() bool { return len(p.Links) > 0 }

// Equal reports whether both are the same table.
func (p Probe) Equal(q Probe) bool {
	return p.Source == q.Source && p.Translated == q.Translated && slices.Equal(p.Links, q.Links)
}
