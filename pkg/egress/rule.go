package egress

import (
	"fmt"
	"net/netip"
)

// Rule is a source rule: packets from one pod address look into one table.
type Rule struct {
	Priority uint32
	From     netip.Addr
	Table    uint32
}

// String gives the rule as `ip rule` prints it.
func (r Rule) String() string {
	return fmt.Sprintf("%d: from %s lookup %d", r.Priority, r.From, r.Table)
}
