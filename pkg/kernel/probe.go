package kernel

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/egress-ip/egress-ip/pkg/egress"
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

var (
	probeTable = &nftables.Table{Family: nftables.TableFamilyIPv6, Name: "egress_ip_probe"}
	// foreignProbeTable is what Azure's own agents install for the same purpose.
	foreignProbeTable = &nftables.Table{Family: nftables.TableFamilyIPv6, Name: "azureSLBProbe"}

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
		rule(ip6.source(), exprs(differs(p.Source.AsSlice())), returns),
		// ip6 daddr & ff00:: == ff00:: return
		//
		// A probe goes to one address. What the router says to all (adverts, MLD
		// queries) counts only from its link-local address.
		rule(exprs(networkHeader(ip6.destAt, 1), equals([]byte{0xff})), returns),
	}
	for _, icmpv6Type := range neighbourDiscovery {
		// icmpv6 type nd-router-advert return
		//
		// The router has the same link-local address. With a translated source its
		// adverts no longer count, and the default route times out after 9000 s.
		rules = append(rules, rule(meta(expr.MetaKeyL4PROTO, []byte{unix.IPPROTO_ICMPV6}),
			transportByte(0), exprs(equals([]byte{icmpv6Type})), returns))
	}
	for _, link := range p.Links {
		// iifname "eth0" ip6 saddr set 2603:1062:0:1:fe80:1234:5678:9abc counter
		rules = append(rules, rule(meta(expr.MetaKeyIIFNAME, ifNameKey(link)), setIP6(ip6.sourceAt, p.Translated), counter))
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
	toTranslated := rule(ip6.dest(), exprs(equals(p.Translated.AsSlice())))
	rules := [][]expr.Any{
		// ip6 daddr 2603:1062:0:1:fe80:1234:5678:9abc tcp flags syn / syn,ack return
		rule(toTranslated, meta(expr.MetaKeyL4PROTO, []byte{unix.IPPROTO_TCP}), transportByte(flags), []expr.Any{
			&expr.Bitwise{SourceRegister: reg1, DestRegister: reg1, Len: 1, Mask: []byte{syn | ack}, Xor: []byte{0}}, equals([]byte{syn}),
		}, returns),
		// ip6 daddr 2603:1062:0:1:fe80:1234:5678:9abc ct direction original return
		rule(toTranslated, direction(expr.CtDirOriginal), returns),
	}
	for _, link := range p.Links {
		// oifname "eth0" ip6 daddr 2603:1062:0:1:fe80:1234:5678:9abc ip6 daddr set fe80::1234:5678:9abc counter
		rules = append(rules, rule(meta(expr.MetaKeyOIFNAME, ifNameKey(link)), toTranslated, setIP6(ip6.destAt, p.Source), counter))
	}
	return rules
}

// ifNameKey is a link's name as nf_tables compares it: 16 bytes, NUL-padded.
func ifNameKey(name string) []byte {
	key := make([]byte, 16)
	copy(key, name)
	return key
}

// transportByte loads a byte of the transport header.
func transportByte(at uint32) []expr.Any {
	return exprs(&expr.Payload{DestRegister: reg1, Base: expr.PayloadBaseTransportHeader, Offset: at, Len: 1})
}

// setIP6 overwrites an address of the IPv6 header. Without the pseudo-header
// flag the checksum of every TCP and UDP packet is wrong, and the packet dropped.
//
// The library sends that flag only together with a checksum of the network header,
// which IPv6 does not have. So the kernel is told of one in the first two bytes of
// the address: it is "corrected" there before the address is written over it
// (nft_payload_set_eval in net/netfilter/nft_payload.c).
func setIP6(at uint32, a netip.Addr) []expr.Any {
	return []expr.Any{
		&expr.Immediate{Register: reg1, Data: a.AsSlice()},
		&expr.Payload{
			OperationType: expr.PayloadWrite, SourceRegister: reg1,
			Base: expr.PayloadBaseNetworkHeader, Offset: at, Len: ip6.size,
			CsumType: expr.CsumTypeInet, CsumOffset: at, CsumFlags: unix.NFT_PAYLOAD_L4CSUM_PSEUDOHDR,
		},
	}
}

// ProbeTable is the probe table as it is.
type ProbeTable struct {
	egress.Probe
	Right   bool    // the rules are exactly what egress-ip makes of Probe
	In, Out Counter // probes that came in, and answers that went out, by all links
}

// Probe reads the probe table back.
func (k *Kernel) Probe() (t ProbeTable, err error) {
	pre, err := k.rulesIn(probePrerouting)
	if err != nil {
		return t, k.probeError("read", err)
	}
	post, err := k.rulesIn(probePostrouting)
	if err != nil {
		return t, k.probeError("read", err)
	}
	t.Probe, t.In, t.Out = probeOf(post), counted(pre), counted(post)
	t.Right = len(pre)+len(post) == 0 || sameRules(probePreroutingRules(t.Probe), pre) && sameRules(probePostroutingRules(t.Probe), post)
	return t, nil
}

// ProbeIsHooked reports whether packets come to the probe table as they should.
func (k *Kernel) ProbeIsHooked() (bool, error) {
	for _, chain := range []*nftables.Chain{probePrerouting, probePostrouting} {
		if hooked, err := k.isHooked(chain); err != nil || !hooked {
			return false, k.probeError("read", err)
		}
	}
	return true, nil
}

func (k *Kernel) probeError(doing string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s table ip6 %s: %w", doing, probeTable.Name, k.nftError(err))
}

// counted sums the counters of rules.
func counted(rules []*nftables.Rule) (sum Counter) {
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
func probeOf(post []*nftables.Rule) (p egress.Probe) {
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

// SetProbe makes the probe table this one, in one transaction; the zero Probe removes it.
func (k *Kernel) SetProbe(p egress.Probe) error {
	return k.probeError("write", k.transaction(func(tx *nftables.Conn) error {
		deleteTable(tx, probeTable)
		if p.Exists() {
			tx.AddTable(probeTable)
			setRules(tx, tx.AddChain(probePrerouting), probePreroutingRules(p))
			setRules(tx, tx.AddChain(probePostrouting), probePostroutingRules(p))
		}
		return nil
	}))
}

// HasForeignProbe reports whether somebody else's probe table exists.
func (k *Kernel) HasForeignProbe() (bool, error) {
	exists, err := k.hasTable(foreignProbeTable)
	if err != nil {
		return false, fmt.Errorf("read table ip6 %s: %w", foreignProbeTable.Name, k.nftError(err))
	}
	return exists, nil
}

// ProbeTableIsForeign reports whether the probe table's name is somebody else's.
func (k *Kernel) ProbeTableIsForeign() (bool, error) {
	names, err := k.namesIn(probeTable)
	return slices.ContainsFunc(names, func(name string) bool {
		return name != probePrerouting.Name && name != probePostrouting.Name
	}), err
}
