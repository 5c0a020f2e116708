package kernel

import (
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
func (g *HeldGuard) write(want egress.Held) error {
	if g.nft == nil {
		if err := g.open(); err != nil {
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
	for _, of := range []struct{ have, want []egress.Element }{
		{g.held.Pods, want.Pods}, {g.held.Places, want.Places}, {g.held.Exits, want.Exits}, {g.held.Wrong, want.Wrong},
	} {
		if err := g.change(of.want, of.have, g.nft.SetAddElements); err != nil {
			return err
		}
		if err := g.change(of.have, of.want, g.nft.SetDeleteElements); err != nil {
			return err
		}
	}
	if err := g.writeCluster(want.Cluster); err != nil {
		return err
	}
	return g.nft.Flush()
}

// writeCluster writes the cluster's networks, all of them where one has changed.
func (g *HeldGuard) writeCluster(want []egress.Element) error {
	if slices.Equal(g.held.Cluster, want) {
		return nil
	}
	for _, family := range egress.Families {
		set := heldSet(family, family.Cluster())
		of := slices.DeleteFunc(slices.Clone(want), func(e egress.Element) bool { return e.Set != set.Name })
		g.nft.FlushSet(set)
		if err := g.nft.SetAddElements(set, intervals(of)); err != nil {
			return err
		}
	}
	return nil
}

// open opens the socket that the table belongs to.
func (g *HeldGuard) open() (err error) {
	g.nft, err = nftables.New(nftables.AsLasting(), withRoom(), nftables.WithSockOptions(func(c *mdlayher.Conn) error {
		g.end = func() { _ = c.Close() } // the error says that it has been closed already
		return nil
	}))
	return err
}

// make makes the table, in the place of one for other mark bits.
func (g *HeldGuard) make(mask uint32) error {
	if g.held.Mask != 0 {
		g.nft.DelTable(heldTable)
		g.held = egress.Held{}
	}
	g.nft.AddTable(heldTable)
	for _, family := range egress.Families {
		for _, name := range append(heldSets(family), family.Cluster()) {
			if err := g.nft.AddSet(heldSet(family, name), nil); err != nil {
				return err
			}
		}
	}
	chain := g.nft.AddChain(&nftables.Chain{
		Table: heldTable, Name: egress.Exit, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityRef(math.MaxInt32 - 1),
	})
	for _, exprs := range heldRules(mask) {
		g.nft.AddRule(&nftables.Rule{Table: heldTable, Chain: chain, Exprs: exprs})
	}
	return nil
}

// change adds, or deletes, the elements that the others do not have.
func (g *HeldGuard) change(elements, others []egress.Element, write func(*nftables.Set, []nftables.SetElement) error) error {
	known := make(map[egress.Element]bool, len(others))
	for _, e := range others {
		known[e] = true
	}
	for _, family := range egress.Families {
		for _, name := range heldSets(family) {
			var some []nftables.SetElement
			for _, e := range elements {
				if e.Set == name && !known[e] {
					some = append(some, nftables.SetElement{Key: key(e)})
				}
			}
			if len(some) == 0 {
				continue
			}
			if err := write(heldSet(family, name), some); err != nil {
				return err
			}
		}
	}
	return nil
}

func heldSets(family egress.Family) []string {
	return []string{family.Guard(), family.Pods(), family.Bridged(), family.Exit(), family.Wrong()}
}

// heldSet is a set of the table.
func heldSet(family egress.Family, name string) *nftables.Set {
	behind := nftables.TypeIFIndex
	switch name {
	case family.Cluster():
		return clusterSet(heldTable, family, name)
	case family.Bridged():
		behind = nftables.TypeEtherAddr
	}
	return concatenated(set(heldTable, name, nftables.MustConcatSetType(inet[family].addr, behind)))
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
		slices.Concat(hasMark(mask, mask), accept()),
	}
	for _, family := range egress.Families {
		// ip saddr . oif @exit4 accept
		rules = append(rules, slices.Concat(leavesAsEgress(family), accept()))
	}
	drop := []expr.Any{&expr.Counter{}, verdict(expr.VerdictDrop)}
	for _, family := range egress.Families {
		f := inet[family]
		at := func(set string) []expr.Any {
			return []expr.Any{&expr.Meta{Key: expr.MetaKeyOIF, Register: f.behindAddr}, &expr.Lookup{SourceRegister: reg1, SetName: set}}
		}
		pods := slices.Concat([]expr.Any{&expr.Ct{Key: f.ctSource, Register: reg1, Direction: expr.CtDirOriginal}}, at(family.Guard()))
		rules = append(rules,
			// meta mark & 0x0f000000 == 0 ct original ip saddr . oif @guard4 counter drop
			slices.Concat(hasMark(0, mask), pods, drop),
			// ct original ip saddr . oif @guard4 ip saddr . oif @wrong4 counter drop
			slices.Concat(pods, protocol(f.nfproto), []expr.Any{f.source()}, at(family.Wrong()), drop),
			// ct state invalid,untracked ip saddr . oif @guard4 counter drop
			slices.Concat(protocol(f.nfproto), hasState(expr.CtStateBitINVALID|expr.CtStateBitUNTRACKED), []expr.Any{f.source()}, at(family.Guard()), drop))
		for _, byMAC := range []bool{false, true} {
			// meta mark & 0x0f000000 == 0 ct direction original ct original ip saddr . iif @pods4 ip daddr != @cluster4 counter drop
			//
			// The same pods, wherever they leave. Where a pod has got another one's address, and the owner of this table has
			// not heard of it, the pod is not where the other was.
			rules = append(rules, slices.Concat(hasMark(0, mask), isDirection(expr.CtDirOriginal), comesFromPod(byMAC, family), protocol(f.nfproto), []expr.Any{
				f.dest(), &expr.Lookup{SourceRegister: reg1, SetName: family.Cluster(), Invert: true},
			}, drop))
		}
	}
	return rules
}
