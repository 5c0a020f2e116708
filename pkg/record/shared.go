package record

import (
	"fmt"
	"slices"

	"github.com/egress-ip/egress-ip/pkg/egress"
)

// Object names something that several attachments may need, and that goes with
// the last of them: also the name of its folder.
type Object string

// Classification is the table inet egress_ip.
const Classification Object = "classification"

// TableObject is a link's table in one family.
func TableObject(f egress.Flow) Object {
	return Object(fmt.Sprintf("table-%d-%d", f.Table, f.Family()))
}

// AddressObject is an egress address on its link.
func AddressObject(f egress.Flow) Object {
	return Object(fmt.Sprintf("address-%d-%s", f.Index, f.Address))
}

// LinkObject is a link's pair of chains, and its mark.
func LinkObject(f egress.Flow) Object { return Object(fmt.Sprintf("link-%d", f.Index)) }

// Counters are the sets with what pods have sent.
const Counters Object = "counters"

// CountedObject is a link's chain for pods that are counted.
func CountedObject(f egress.Flow) Object { return Object(fmt.Sprintf("counted-%d", f.Index)) }

// RuleObject is a rule that is not a pod's own.
func RuleObject(r egress.Rule) Object {
	return Object(fmt.Sprintf("rule-%d-%s", r.Family, slug(r.String())))
}

// slug makes a file name of a rule's text.
func slug(s string) string {
	b := []byte(s)
	for i, c := range b {
		if c == ' ' || c == '/' || c == ':' {
			b[i] = '_'
		}
	}
	return string(b)
}

// Shared returns what flows of an attachment need, each once.
func Shared(a egress.Attachment, flows ...egress.Flow) []Object {
	var objects []Object
	for _, f := range flows {
		needs := []Object{TableObject(f), AddressObject(f), LinkObject(f), Classification}
		if a.Counters {
			needs = append(needs, CountedObject(f), Counters)
		}
		for _, r := range a.SharedRules(f) {
			needs = append(needs, RuleObject(r))
		}
		for _, o := range needs {
			if !slices.Contains(objects, o) {
				objects = append(objects, o)
			}
		}
	}
	return objects
}
