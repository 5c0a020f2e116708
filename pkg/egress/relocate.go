package egress

// Relocate returns the attachments with their flows on the links of today. A link that has
// been renamed is the same link: its ifindex tells. One that was created again has another
// ifindex, and so another table; the next flow on it may have given it a mark already. It
// may be in a VRF by now, or in none.
// Flows of a link that does not exist stay as they are: their table stays closed.
func Relocate(attachments []Attachment, node Node) []Attachment {
	index, name := make(map[string]int, len(node.Links)), make(map[int]string, len(node.Links))
	for _, l := range node.Links {
		index[l.Name], name[l.Index] = l.Index, l.Name
	}
	current := map[int]Flow{}
	for _, a := range attachments {
		for _, f := range a.Flows {
			if name[f.Index] != "" {
				current[f.Index] = f
			}
		}
	}
	moved := make([]Attachment, len(attachments))
	for i, a := range attachments {
		moved[i] = a
		moved[i].Flows = make([]Flow, len(a.Flows))
		for j, f := range a.Flows {
			if renamed := name[f.Index]; renamed != "" {
				f.Link = renamed
			} else if now, there := index[f.Link]; there {
				f.Table += uint32(now) - uint32(f.Index)
				f.Index = now
				if other, ok := current[now]; ok {
					f.Table, f.Mark = other.Table, other.Mark
				}
			}
			if l, there := node.Link(f.Index); there {
				f.VRFRule = node.VRFs.of(l, f.Family())
			}
			moved[i].Flows[j] = f
		}
	}
	return moved
}
