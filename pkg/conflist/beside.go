package conflist

import (
	"fmt"

	"github.com/egress-ip/egress-ip/pkg/config"
)

// lastBeforeAWS is the highest rulePriority whose rules, the one behind included, come
// before the AWS VPC CNI's at 1024 and 1536 (amazon-vpc-cni-k8s, pkg/networkutils).
const lastBeforeAWS = 1022

// markers are plugins whose agents set bits of packets' marks.
var markers = map[string]struct {
	bits   uint32
	whose  string
	remedy string
}{
	"calico": {
		0xffff0000, "Calico's Felix may take for itself (iptablesMarkMask, nftablesMarkMask)",
		`set "markMask": "0x00000f00" in the entry, or take these bits from Felix`,
	},
	"cilium-cni": {
		0xffff1f00, "Cilium uses",
		`set "markMask": "0x000000f0" in the entry, and enableIdentityMark=false in Cilium`,
	},
	"aws-cni": {0x80, "the AWS VPC CNI uses", `choose another "markMask"`},
}

// Beside returns an [UnsuitableError] where another plugin's rules would make annotated
// pods leave otherwise than this entry says, and warnings of what may.
func (l List) Beside(c config.Config) (warnings []string, err error) {
	if len(c.Links) == 0 {
		return nil, nil // no pod leaves by a link
	}
	for _, p := range l.Plugins {
		if p.Type == "aws-cni" && c.RulePriority > lastBeforeAWS {
			return nil, &UnsuitableError{fmt.Sprintf(`rulePriority %d: the AWS VPC CNI's own rules, at 1024 and 1536, come before egress-ip's, and annotated pods would leave with the node's address; set "rulePriority": 600 in the entry, in a file for --entry`, c.RulePriority)}
		}
		if m, ok := markers[p.Type]; ok && c.MarkMask&m.bits != 0 {
			warnings = append(warnings, fmt.Sprintf("markMask %#08x has bits of %#08x, which %s: %s", c.MarkMask, m.bits, m.whose, m.remedy))
		}
	}
	return warnings, nil
}
