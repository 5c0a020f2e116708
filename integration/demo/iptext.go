package main

import (
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ruleText gives a rule as `ip rule` does.
func ruleText(r netlink.Rule) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d: ", r.Priority)
	if r.Invert {
		b.WriteString("not ")
	}
	fmt.Fprintf(&b, "from %s", prefixText(r.Src, "all"))
	if r.Dst != nil {
		fmt.Fprintf(&b, " to %s", prefixText(r.Dst, "all"))
	}
	if r.Mark != 0 || r.Mask != nil {
		b.WriteString(" fwmark " + hexText(r.Mark))
		if r.Mask != nil && *r.Mask != 0xffffffff {
			b.WriteString("/" + hexText(*r.Mask))
		}
	}
	if r.IifName != "" {
		fmt.Fprintf(&b, " iif %s", r.IifName)
	}
	if r.OifName != "" {
		fmt.Fprintf(&b, " oif %s", r.OifName)
	}
	switch {
	case r.Goto >= 0:
		fmt.Fprintf(&b, " goto %d", r.Goto)
	case r.Table != unix.RT_TABLE_UNSPEC:
		fmt.Fprintf(&b, " lookup %s", tableText(r.Table))
	default:
		// The library does not read what else the action may be; on this node
		// there is nothing else that has no table.
		b.WriteString(" nop")
	}
	if r.Protocol != unix.RTPROT_UNSPEC && r.Protocol != unix.RTPROT_KERNEL {
		fmt.Fprintf(&b, " proto %s", protocolText(int(r.Protocol)))
	}
	return b.String()
}

// hexText writes zero without a prefix, as C does.
func hexText(v uint32) string {
	if v == 0 {
		return "0"
	}
	return fmt.Sprintf("%#x", v)
}

func tableText(table int) string {
	switch table {
	case unix.RT_TABLE_LOCAL:
		return "local"
	case unix.RT_TABLE_MAIN:
		return "main"
	case unix.RT_TABLE_DEFAULT:
		return "default"
	}
	return strconv.Itoa(table)
}

// routeText gives a route as `ip route` does, without its table.
func (n *node) routeText(r netlink.Route) string {
	var b strings.Builder
	if kind, ok := routeTypes[r.Type]; ok {
		b.WriteString(kind + " ")
	}
	b.WriteString(prefixText(r.Dst, "default"))
	if r.Gw != nil {
		fmt.Fprintf(&b, " via %s", r.Gw)
	}
	if r.LinkIndex != 0 {
		fmt.Fprintf(&b, " dev %s", n.linkName(r.LinkIndex))
	}
	if r.Protocol != unix.RTPROT_BOOT {
		fmt.Fprintf(&b, " proto %s", protocolText(int(r.Protocol)))
	}
	if r.Family == netlink.FAMILY_V4 && r.Scope != netlink.SCOPE_UNIVERSE {
		fmt.Fprintf(&b, " scope %s", r.Scope)
	}
	if r.Src != nil {
		fmt.Fprintf(&b, " src %s", r.Src)
	}
	if r.Priority != 0 {
		fmt.Fprintf(&b, " metric %d", r.Priority)
	}
	for _, hop := range r.MultiPath {
		fmt.Fprintf(&b, " nexthop via %s dev %s weight %d", hop.Gw, n.linkName(hop.LinkIndex), hop.Hops+1)
	}
	if r.Flags&unix.RTNH_F_ONLINK != 0 {
		b.WriteString(" onlink")
	}
	if r.MTU != 0 {
		fmt.Fprintf(&b, " mtu %d", r.MTU)
	}
	return b.String()
}

// routeTypes are those that have a word; a unicast route has none.
var routeTypes = map[int]string{
	unix.RTN_LOCAL: "local", unix.RTN_BROADCAST: "broadcast", unix.RTN_ANYCAST: "anycast", unix.RTN_MULTICAST: "multicast",
	unix.RTN_BLACKHOLE: "blackhole", unix.RTN_UNREACHABLE: "unreachable", unix.RTN_PROHIBIT: "prohibit", unix.RTN_THROW: "throw",
}

func protocolText(protocol int) string {
	switch protocol {
	case unix.RTPROT_UNSPEC:
		return "unspec"
	case unix.RTPROT_KERNEL:
		return "kernel"
	case unix.RTPROT_BOOT:
		return "boot"
	case unix.RTPROT_STATIC:
		return "static"
	case unix.RTPROT_RA:
		return "ra"
	}
	return strconv.Itoa(protocol)
}

// prefixText gives a prefix as iproute2 does: a single address without its
// length, and a word for all addresses.
func prefixText(p *net.IPNet, all string) string {
	if p == nil {
		return all
	}
	ones, bits := p.Mask.Size()
	switch ones {
	case 0:
		return all
	case bits:
		return p.IP.String()
	}
	return p.String()
}

// addressText gives an address as `ip address` does.
func (n *node) addressText(a netlink.Addr) string {
	family := "inet6"
	if a.IP.To4() != nil {
		family = "inet"
	}
	scope := "global"
	if a.Scope != unix.RT_SCOPE_UNIVERSE {
		scope = netlink.Scope(a.Scope).String()
	}
	text := fmt.Sprintf("%s %s scope %s", family, a.IPNet, scope)
	if a.Flags&unix.IFA_F_DEPRECATED != 0 {
		text += " deprecated"
	}
	return text + " " + n.linkName(a.LinkIndex)
}
