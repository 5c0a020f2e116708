package egress

// Relocate returns the attachments with their flows on the links of today. A link that has
// been renamed is the same link: its ifindex tells. One that was created again has another
// ifindex, and so another table; the next flow on it may have given it a mark already.
// Flows of a link that does not exist stay as they are: their table stays closed.
func Relocate(attachments []Attachment, links []Link) []Attachment {
	index, name := make(map[string]int, len(links)), make(map[int]string, len(links))
	for _, l := range links {
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
			moved[i].Flows[j] = f
		}
	}
	return moved
}
