package kernel

import (
	"fmt"

	"github.com/egress-ip/egress-ip/pkg/egress"
	"github.com/google/nftables"
)

// ovnChain is where OVN-Kubernetes translates the egress IPs of secondary links.
const ovnChain = "OVN-KUBE-EGRESS-IP-MULTI-NIC"

// OtherEgress names another system that does egress on this node, in a way that
// would mix with ours; empty where there is none.
func (k *Kernel) OtherEgress() (string, error) {
	for _, family := range []nftables.TableFamily{nftables.TableFamilyIPv4, nftables.TableFamilyIPv6} {
		_, err := k.nft.ListChain(&nftables.Table{Family: family, Name: "nat"}, ovnChain)
		if ok, err := exists(err); err != nil {
			return "", fmt.Errorf("look for the chain %s: %w", ovnChain, k.nftError(err))
		} else if ok {
			return fmt.Sprintf("OVN-Kubernetes does egress IPs on this node (iptables chain %s); use one or the other", ovnChain), nil
		}
	}
	return "", nil
}

// Foreign names what somebody else has where egress-ip's rules and table are to
// be; empty where there is nothing. All rules come, so this is for the first
// attachment of a node.
func (k *Kernel) Foreign(families []egress.Family, at egress.Priorities) (string, error) {
	for _, f := range families {
		// Main's own rule is behind the highest priority that we may have.
		foreign, err := k.rulesLike(f, func(r ruleMessage) bool {
			return !r.isOurs() && r.Priority >= max(at.Link, 1) && r.Priority <= at.Behind && r.Priority < 32766
		})
		if err != nil {
			return "", err
		}
		if len(foreign) > 0 {
			return fmt.Sprintf("somebody else's %s rule stands at egress-ip's priority (%s); remove it, or set rulePriority", f, foreign[0]), nil
		}
	}
	name, err := k.foreignName()
	if err != nil || name == "" {
		return "", err
	}
	return fmt.Sprintf("somebody else uses the nftables table inet %s (it has %q); rename or delete that table", egressTable.Name, name), nil
}
