package egress

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// Compare orders owners by container and interface.
func (o Owner) Compare(other Owner) int {
	return cmp.Or(cmp.Compare(o.ContainerID, other.ContainerID), cmp.Compare(o.IfName, other.IfName))
}

// Validate reports what an attachment that was read lacks, or has that no ADD gave it.
func (a Attachment) Validate() error {
	if len(a.Flows) == 0 {
		return errors.New("it has no flows")
	}
	if a.RulePriority == 0 || a.MarkMask == 0 {
		return errors.New("it has no rulePriority or no markMask")
	}
	for _, f := range a.Flows {
		switch {
		case !f.Pod.IsValid() || !f.Address.IsValid() || FamilyOf(f.Pod) != FamilyOf(f.Address):
			return fmt.Errorf("pod %q and address %q are no two addresses of one family", f.Pod, f.Address)
		case f.Link == "" || f.Index <= 0 || f.Table == 0:
			return fmt.Errorf("the flow of pod %s has no link, ifindex or table", f.Pod)
		case f.Mark == 0 || f.Mark&^a.MarkMask != 0:
			return fmt.Errorf("the flow of pod %s has the mark %#x, which is none of markMask %#x", f.Pod, f.Mark, a.MarkMask)
		}
	}
	return nil
}

// Owners says which of the attachments has each pod address: an address has one pod at a
// time, and where several claim one it is the newest's.
func Owners(attachments []Attachment) map[netip.Addr]Owner {
	owners := make(map[netip.Addr]Owner, len(attachments))
	newest := make(map[netip.Addr]Attachment)
	for _, a := range attachments {
		for _, f := range a.Flows {
			if other, taken := newest[f.Pod]; taken && !a.newer(other) {
				continue
			}
			owners[f.Pod], newest[f.Pod] = a.Owner, a
		}
	}
	return owners
}

// newer orders attachments that claim the same pod address.
func (a Attachment) newer(other Attachment) bool {
	if order := a.Since.Compare(other.Since); order != 0 {
		return order > 0
	}
	return a.Owner.Compare(other.Owner) > 0
}

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
