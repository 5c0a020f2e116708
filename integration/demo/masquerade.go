package main

import (
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// masquerade stands in for the ipMasq of the main plugin, which runs iptables or
// nft, and a machine may have neither:
//
//	table inet demo_masquerade {
//		chain postrouting {
//			type nat hook postrouting priority srcnat;
//			ip saddr 10.244.0.0/16 oifname != "cni0" masquerade
//			ip6 saddr fd00:10:244::/56 oifname != "cni0" masquerade
//		}
//	}
func (n *node) masquerade(t *teller) {
	table := n.nft.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "demo_masquerade"})
	chain := n.nft.AddChain(&nftables.Chain{
		Table: table, Name: "postrouting", Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource,
	})
	bridge := make([]byte, unix.IFNAMSIZ)
	copy(bridge, "cni0")
	for _, network := range []string{podNetwork4, podNetwork6} {
		p := netip.MustParsePrefix(network)
		family, source := byte(unix.NFPROTO_IPV4), uint32(12)
		if p.Addr().Is6() {
			family, source = unix.NFPROTO_IPV6, 8
		}
		length := uint32(p.Bits() / 8) // whole bytes, so no mask is needed
		n.nft.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
			&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{family}},
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: source, Len: length},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: p.Addr().AsSlice()[:length]},
			&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1},
			&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: bridge},
			&expr.Masq{},
		}})
	}
	if err := n.nft.Flush(); err != nil {
		t.Fatalf("masquerade for the plain pods (it needs nf_tables with NAT in the kernel): %v", err)
	}
}
