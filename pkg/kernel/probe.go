package kernel

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/egress-ip/egress-ip/pkg/egress"
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

var probeTable = &nftables.Table{Family: nftables.TableFamilyIPv6, Name: "egress_ip_probe"}

// foreignProbeTable is what Azure's own agents put up for the same purpose.
const foreignProbeTable = "azureSLBProbe"

var (
	probePrerouting = &nftables.Chain{
		Table: probeTable, Name: "prerouting", Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRaw,
	}
	probePostrouting = &nftables.Chain{
		Table: probeTable, Name: "postrouting", Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityRaw,
	}
)

// neighbourDiscovery are the ICMPv6 types that must keep the router's link-local
// source (RFC 4861): router advert, neighbour solicit, neighbour advert, redirect.
var neighbourDiscovery = []byte{134, 135, 136, 137}

// probePreroutingRules returns the rules for packets that come in.
func probePreroutingRules(p egress.Probe) [][]expr.Any {
	rules := [][]expr.Any{
		// ip6 saddr != fe80::1234:5678:9abc return
		{ip6Source(), &expr.Cmp{Op: expr.CmpOpNeq, Register: reg1, Data: p.Source.AsSlice()}, verdict(expr.VerdictReturn)},
		// ip6 daddr & ff00:: == ff00:: return
		//
		// A probe goes to one address. What the router says to all (adverts, MLD
		// queries) counts only from its link-local address.
		{
			&expr.Payload{DestRegister: reg1, Base: expr.PayloadBaseNetworkHeader, Offset: 24, Len: 1},
			equals([]byte{0xff}),
			verdict(expr.VerdictReturn),
		},
	}
	for _, icmpv6Type := range neighbourDiscovery {
		// icmpv6 type nd-router-advert return
		//
		// The router has the same link-local address. With a translated source its
		// adverts no longer count, and the default route times out after 9000 s.
		rules = append(rules, []expr.Any{
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg1},
			equals([]byte{unix.IPPROTO_ICMPV6}),
			&expr.Payload{DestRegister: reg1, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 1},
			equals([]byte{icmpv6Type}),
			verdict(expr.VerdictReturn),
		})
	}
	for _, link := range p.Links {
		// iifname "eth0" ip6 saddr set 2603:1062:0:1:fe80:1234:5678:9abc counter
		rules = append(rules, slices.Concat(
			[]expr.Any{&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: reg1}, equals(ifNameKey(link))},
			writeIP6(8, p.Translated), []expr.Any{&expr.Counter{}}))
	}
	return rules
}

// probePostroutingRules returns the rules for packets that go out: answers to probes
// are translated, and nothing that a pod opens itself, or the router's link-local
// services would be there for every pod. The connection says which is which: it was
// tracked, behind prerouting, with the probe as its first packet. What conntrack does not
// know, a late reset or what somebody has it not track, opens nothing, but for TCP's
// first segment, which is never an answer. That rule also holds against a pod that has
// forged a packet of the other side's, as if that had opened the connection.
func probePostroutingRules(p egress.Probe) [][]expr.Any {
	const flags, syn, ack = 13, 0x02, 0x10 // RFC 9293
	toTranslated := []expr.Any{ip6Dest(), equals(p.Translated.AsSlice())}
	rules := [][]expr.Any{
		// ip6 daddr 2603:1062:0:1:fe80:1234:5678:9abc tcp flags syn / syn,ack return
		slices.Concat(toTranslated, []expr.Any{
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg1},
			equals([]byte{unix.IPPROTO_TCP}),
			&expr.Payload{DestRegister: reg1, Base: expr.PayloadBaseTransportHeader, Offset: flags, Len: 1},
			&expr.Bitwise{SourceRegister: reg1, DestRegister: reg1, Len: 1, Mask: []byte{syn | ack}, Xor: []byte{0}},
			equals([]byte{syn}),
			verdict(expr.VerdictReturn),
		}),
		// ip6 daddr 2603:1062:0:1:fe80:1234:5678:9abc ct direction original return
		slices.Concat(toTranslated, []expr.Any{
			&expr.Ct{Key: expr.CtKeyDIRECTION, Register: reg1},
			equals([]byte{0}), // IP_CT_DIR_ORIGINAL
			verdict(expr.VerdictReturn),
		}),
	}
	for _, link := range p.Links {
		rules = append(rules,
			// oifname "eth0" ip6 daddr 2603:1062:0:1:fe80:1234:5678:9abc ip6 daddr set fe80::1234:5678:9abc counter
			slices.Concat(
				[]expr.Any{&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: reg1}, equals(ifNameKey(link)), ip6Dest(), equals(p.Translated.AsSlice())},
				writeIP6(24, p.Source), []expr.Any{&expr.Counter{}}))
	}
	return rules
}

// writeIP6 overwrites an address of the IPv6 header. Without the pseudo-header
// flag the checksum of every TCP and UDP packet is wrong, and the packet dropped.
//
// The library sends that flag only together with a checksum of the network header,
// which IPv6 does not have. So the kernel is told of one in the first two bytes of
// the address: it is "corrected" there before the address is written over it
// (nft_payload_set_eval in net/netfilter/nft_payload.c).
func writeIP6(offset uint32, a netip.Addr) []expr.Any {
	return []expr.Any{
		&expr.Immediate{Register: reg1, Data: a.AsSlice()},
		&expr.Payload{
			OperationType: expr.PayloadWrite, SourceRegister: reg1,
			Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 16,
			CsumType: expr.CsumTypeInet, CsumOffset: offset, CsumFlags: unix.NFT_PAYLOAD_L4CSUM_PSEUDOHDR,
		},
	}
}

// ProbeTable is the probe table as it stands.
type ProbeTable struct {
	egress.Probe
	Right   bool    // the rules are exactly what egress-ip makes of Probe
	In, Out Counter // probes that came in, and answers that went out, by all links
}

// Probe reads the probe table back.
func (k *Kernel) Probe() (ProbeTable, error) {
	pre, err := k.rulesIn(probeTable, probePrerouting.Name)
	if err != nil {
		return ProbeTable{}, fmt.Errorf("read table ip6 %s: %w", probeTable.Name, k.nftError(err))
	}
	post, err := k.rulesIn(probeTable, probePostrouting.Name)
	if err != nil {
		return ProbeTable{}, fmt.Errorf("read table ip6 %s: %w", probeTable.Name, k.nftError(err))
	}
	if len(pre)+len(post) == 0 {
		return ProbeTable{Right: true}, nil
	}
	t := ProbeTable{Probe: probeOf(post), In: counted(pre), Out: counted(post)}
	t.Right = sameRules(probePreroutingRules(t.Probe), pre) && sameRules(probePostroutingRules(t.Probe), post)
	return t, nil
}

// ProbeIsHooked reports whether packets come to the probe table as they should.
func (k *Kernel) ProbeIsHooked() (bool, error) {
	for _, want := range []*nftables.Chain{probePrerouting, probePostrouting} {
		have, err := k.nft.ListChain(probeTable, want.Name)
		if errors.Is(err, unix.ENOENT) || err == nil && !sameHook(want, have) {
			return false, nil
		}
		if err != nil {
			return false, fmt.Errorf("read table ip6 %s: %w", probeTable.Name, k.nftError(err))
		}
	}
	return true, nil
}

// counted sums the counters of rules.
func counted(rules []*nftables.Rule) Counter {
	var sum Counter
	for _, r := range rules {
		for _, e := range r.Exprs {
			if c, ok := e.(*expr.Counter); ok {
				sum.Packets += c.Packets
				sum.Bytes += c.Bytes
			}
		}
	}
	return sum
}

// probeOf reads the rules of postrouting, which hold all of the value, as far as
// they look like ours.
func probeOf(post []*nftables.Rule) egress.Probe {
	var p egress.Probe
	for _, rule := range post {
		if len(rule.Exprs) < 5 {
			continue
		}
		name, ok1 := rule.Exprs[1].(*expr.Cmp)
		translated, ok2 := rule.Exprs[3].(*expr.Cmp)
		source, ok3 := rule.Exprs[4].(*expr.Immediate)
		if ok1 && ok2 && ok3 {
			p.Links = append(p.Links, strings.TrimRight(string(name.Data), "\x00"))
			p.Source, _ = netip.AddrFromSlice(source.Data)
			p.Translated, _ = netip.AddrFromSlice(translated.Data)
		}
	}
	return p
}

// SetProbe makes the probe table this one, in one transaction; a Probe that does
// not stand removes it.
func (k *Kernel) SetProbe(p egress.Probe) error {
	err := k.transaction(func(tx *nftables.Conn) error {
		// Adding what exists is no error, so that what is deleted exists.
		tx.AddTable(probeTable)
		tx.DelTable(probeTable)
		if p.Stands() {
			tx.AddTable(probeTable)
			setRules(tx, tx.AddChain(probePrerouting), probePreroutingRules(p))
			setRules(tx, tx.AddChain(probePostrouting), probePostroutingRules(p))
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("write table ip6 %s: %w", probeTable.Name, k.nftError(err))
	}
	return nil
}

// HasForeignProbe reports whether somebody else's probe table stands.
func (k *Kernel) HasForeignProbe() (bool, error) {
	there, err := k.hasTable(&nftables.Table{Family: nftables.TableFamilyIPv6, Name: foreignProbeTable})
	if err != nil {
		return false, fmt.Errorf("read table ip6 %s: %w", foreignProbeTable, k.nftError(err))
	}
	return there, nil
}
