package record

import (
	"fmt"
	"slices"

	"github.com/egress-ip/egress-ip/pkg/egress"
)

// Object names something that several attachments may need, and that goes with
// the last of them: also the name of its folder.
type Object string

// Translations is the table inet egress_ip.
const Translations Object = "nftables"

// TableObject is a link's table in one family.
func TableObject(f egress.Flow) Object {
	return Object(fmt.Sprintf("table-%d-%d", f.Table, f.Family()))
}

// AddressObject is an egress address on its link.
func AddressObject(f egress.Flow) Object {
	return Object(fmt.Sprintf("address-%d-%s", f.Index, f.Address))
}

// Shared returns what flows need, each once.
func Shared(flows ...egress.Flow) []Object {
	var objects []Object
	for _, f := range flows {
		for _, o := range []Object{TableObject(f), AddressObject(f), Translations} {
			if !slices.Contains(objects, o) {
				objects = append(objects, o)
			}
		}
	}
	return objects
}
