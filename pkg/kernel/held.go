package kernel

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/egress-ip/egress-ip/pkg/egress"
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	mdlayher "github.com/mdlayher/netlink"
)

// heldTable is the second guard. The kernel lets nobody but its owner change or delete it,
// and deletes it with the socket that it was made by (NFT_TABLE_F_OWNER):
//
//	table inet egress_ip_held {
//		flags owner
//		set guard4 { type ipv4_addr . iface_index; }   # pod . its link; and guard6
//		set pods4, bridged4, cluster4                  # as in table inet egress_ip; and those of IPv6
//		set exit4 { type ipv4_addr . iface_index; }    # egress address . link; and exit6
//		set wrong4 { type ipv4_addr . iface_index; }   # pod, or address of the link's own . link; and wrong6
//		chain exit {
//			type filter hook postrouting priority 2147483646
//			...
//		}
//	}
var heldTable = &nftables.Table{Family: nftables.TableFamilyINet, Name: "egress_ip_held", Flags: nftables.TableFlagOwner}

func heldSets() (sets []*nftables.Set) {
	for _, f := range ipFamilies {
		sets = append(sets, &nftables.Set{Name: f.Cluster(), KeyType: f.addr, Interval: true})
		for _, name := range []string{f.Guard(), f.Pods(), f.Exit(), f.Wrong()} {
			sets = append(sets, &nftables.Set{Name: name, KeyType: f.with(nftables.TypeIFIndex), Concatenation: true})
		}
		sets = append(sets, &nftables.Set{Name: f.Bridged(), KeyType: f.with(nftables.TypeEtherAddr), Concatenation: true})
	}
	return inTable(heldTable, sets)
}

// HeldGuard is a guard for the time when table inet egress_ip does not exist: what belongs
// to pods does not leave the cluster but by their link with an egress address. A flush of nftables by
// somebody else leaves it, so it also drops the packets that are between the two hooks of
// the table at that instant. It lasts as long as the process.
type HeldGuard struct {
	nft  *nftables.Conn // nil: there is none
	end  func()         // closes its socket
	held egress.Held
}

// Keep makes the guard know exactly these. One that holds nothing does not exist.
func (g *HeldGuard) Keep(want egress.Held) error {
	if g.nft != nil && g.held.Equal(want) {
		return nil
	}
	if len(want.Pods) == 0 {
		g.Close()
		return nil
	}
	if err := g.write(want); err != nil {
		g.Close() // what exists is not known
		return fmt.Errorf("table inet %s: %w", heldTable.Name, noAnswer(err))
	}
	g.held = want
	return nil
}

// Close removes the guard.
func (g *HeldGuard) Close() {
	if g.nft != nil {
		_ = g.nft.CloseLasting() // nothing is left to lose
	}
	*g = HeldGuard{}
}

// write writes what has changed, in one transaction.
func (g *HeldGuard) write(want egress.Held) (err error) {
	if g.nft == nil { // the table belongs to the socket
		if g.nft, err = nftables.New(nftables.AsLasting(), withRoom(), nftables.WithSockOptions(func(c *mdlayher.Conn) error {
			g.end = func() { _ = c.Close() } // the error says that it has been closed already
			return nil
		})); err != nil {
			return err
		}
	}
	tooLong := time.AfterFunc(nftWithin, g.end)
	defer tooLong.Stop()
	if g.held.Mask != want.Mask {
		if err := g.make(want.Mask); err != nil {
			return err
		}
	}
	all := func(h egress.Held) []egress.Element { return slices.Concat(h.Pods, h.Places, h.Exits, h.Wrong) }
	have, wanted := all(g.held), all(want)
	missing, surplus := egress.Missing(wanted, have), egress.Missing(have, wanted)
	for _, s := range heldSets() {
		var err error
		if !s.Interval {
			err = errors.Join(addElements(g.nft, s, missing), deleteElements(g.nft, s, surplus))
		} else if !slices.Equal(g.held.Cluster, want.Cluster) {
			err = replaceNetworks(g.nft, s, want.Cluster)
		}
		if err != nil {
			return err
		}
	}
	return g.nft.Flush()
}

// make makes the table, in the place of one for other mark bits.
func (g *HeldGuard) make(mask uint32) error {
	if g.held.Mask != 0 {
		g.nft.DelTable(heldTable)
		g.held = egress.Held{}
	}
	g.nft.AddTable(heldTable)
	for _, s := range heldSets() {
		if err := g.nft.AddSet(s, nil); err != nil {
			return err
		}
	}
	setRules(g.nft, g.nft.AddChain(&nftables.Chain{
		Table: heldTable, Name: egress.Exit, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityRef(math.MaxInt32 - 1),
	}), heldRules(mask))
	return nil
}

// heldRules drop what pods send to outside the cluster by other links, and by their links with another
// address than they may have there. They come behind the guard of table inet egress_ip, which marks what it
// has let pass; so while that exists, a packet costs one comparison here.
//
// What has a link's mark was classified just before the table went. It is dropped only where its source
// is known to be wrong: a pod may have been added just now, in the place of another.
func heldRules(mask uint32) [][]expr.Any {
	rules := [][]expr.Any{
		// meta mark & 0x0f000000 == 0x0f000000 accept
		rule(markIs(mask, mask), accept),
	}
	for _, f := range ipFamilies {
		// ip saddr . oif @exit4 accept
		rules = append(rules, rule(leavesAsEgress(f), accept))
	}
	for _, f := range ipFamilies {
		pods := rule(f.ctSaddr(), f.oif(), in(f.Guard()))
		rules = append(rules,
			// meta mark & 0x0f000000 == 0 ct original ip saddr . oif @guard4 counter drop
			rule(markIs(0, mask), pods, counter, drop),
			// ct original ip saddr . oif @guard4 ip saddr . oif @wrong4 counter drop
			rule(pods, f.saddr(), f.oif(), in(f.Wrong()), counter, drop),
			// ct state invalid,untracked ip saddr . oif @guard4 counter drop
			rule(f.proto(), state(untrackable), f.source(), f.oif(), in(f.Guard()), counter, drop))
		for _, byMAC := range []bool{false, true} {
			// meta mark & 0x0f000000 == 0 ct direction original ct original ip saddr . iif @pods4 ip daddr != @cluster4 counter drop
			//
			// The same pods, wherever they leave. Where a pod has got another one's address, and the owner of this table has
			// not heard of it, the pod is not where the other was.
			rules = append(rules, rule(markIs(0, mask), direction(expr.CtDirOriginal), comesFromPod(byMAC, f),
				f.daddr(), notIn(f.Cluster()), counter, drop))
		}
	}
	return rules
}
