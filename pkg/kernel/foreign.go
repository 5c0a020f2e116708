package kernel

import (
	"errors"
	"fmt"
	"slices"

	"github.com/egress-ip/egress-ip/pkg/egress"
	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// ovnChain is where OVN-Kubernetes translates the egress IPs of secondary links.
const ovnChain = "OVN-KUBE-EGRESS-IP-MULTI-NIC"

// OtherEgress names another system that does egress on this node, in a way that
// would mix with ours; empty where there is none.
func (k *Kernel) OtherEgress() (string, error) {
	for _, table := range []*nftables.Table{
		{Family: nftables.TableFamilyIPv4, Name: "nat"}, {Family: nftables.TableFamilyIPv6, Name: "nat"},
	} {
		there, err := k.hasChain(&nftables.Chain{Table: table, Name: ovnChain})
		if err != nil {
			return "", fmt.Errorf("look for the chain %s: %w", ovnChain, k.nftError(err))
		}
		if there {
			return fmt.Sprintf("OVN-Kubernetes does egress IPs on this node (iptables chain %s); use one or the other", ovnChain), nil
		}
	}
	return "", nil
}

// Foreign names what somebody else has where egress-ip's rules and table are to
// stand; empty where there is nothing. All rules come, so this is for the first
// attachment of a node.
func (k *Kernel) Foreign(families []egress.Family, at egress.Priorities) (string, error) {
	for _, f := range families {
		_, foreign, err := k.Rules(f)
		if err != nil {
			return "", err
		}
		// Main's own rule is behind the highest priority that we may have.
		foreign = slices.DeleteFunc(foreign, func(r egress.Rule) bool {
			return r.Priority < max(at.Link, 1) || r.Priority > at.Behind || r.Priority >= 32766
		})
		if len(foreign) > 0 {
			return fmt.Sprintf("somebody else's %s rule stands at egress-ip's priority (%s); remove it, or set rulePriority", f, foreign[0]), nil
		}
	}
	names, err := k.namesIn(egressTable)
	if err != nil {
		return "", err
	}
	for _, name := range names {
		if !isOurName(name) {
			return fmt.Sprintf("somebody else uses the nftables table inet %s (it has %q); rename or delete that table", egressTable.Name, name), nil
		}
	}
	return "", nil
}

// namesIn returns the names of a table's chains and sets.
func (k *Kernel) namesIn(table *nftables.Table) ([]string, error) {
	var names []string
	chains, err := k.nft.ListChainsOfTableFamily(table.Family)
	if err != nil {
		return nil, fmt.Errorf("read chains: %w", k.nftError(err))
	}
	for _, c := range chains {
		if c.Table.Name == table.Name {
			names = append(names, c.Name)
		}
	}
	sets, err := k.nft.GetSets(table)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return nil, fmt.Errorf("read the sets of table %s: %w", table.Name, k.nftError(err))
	}
	for _, s := range sets {
		names = append(names, s.Name)
	}
	return names, nil
}

// ClassificationIsForeign reports whether the name of the table inet egress_ip is
// somebody else's.
func (k *Kernel) ClassificationIsForeign() (bool, error) {
	names, err := k.namesIn(egressTable)
	return slices.ContainsFunc(names, func(name string) bool { return !isOurName(name) }), err
}

// ProbeTableIsForeign reports whether the probe table's name is somebody else's.
func (k *Kernel) ProbeTableIsForeign() (bool, error) {
	names, err := k.namesIn(probeTable)
	return slices.ContainsFunc(names, func(name string) bool {
		return name != probePrerouting.Name && name != probePostrouting.Name
	}), err
}
