package kernel

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strings"

	"github.com/egress-ip/egress-ip/pkg/egress"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// refusals are what the errors of a lookup say of the packet: what kind of route
// refuses it, or that none is there. IPv4's reverse path filter says EXDEV, or,
// later (6.18), EINVAL, as a blackhole does.
var refusals = map[unix.Errno]egress.Refusal{
	unix.EHOSTUNREACH: egress.RefusedUnreachable,
	unix.ENETUNREACH:  egress.RefusedNoRoute,
	unix.EACCES:       egress.RefusedProhibited,
	unix.EINVAL:       egress.RefusedInvalid,
	unix.EXDEV:        egress.RefusedReversePath,
}

// Lookup asks the kernel which way it routes a packet. Nothing is sent.
func (k *Kernel) Lookup(p egress.Packet) (egress.Answer, error) {
	var attributes []*nl.RtAttr
	if p.Mark != 0 {
		attributes = append(attributes, nl.NewRtAttr(unix.RTA_MARK, native(p.Mark)))
	}
	if p.In != "lo" {
		in, err := k.rt().LinkByName(p.In)
		if err != nil {
			return egress.Answer{}, fmt.Errorf("read link %s: %w", p.In, err)
		}
		attributes = append(attributes, nl.NewRtAttr(unix.RTA_IIF, native(uint32(in.Attrs().Index))))
	}
	if p.Source.IsValid() {
		attributes = append(attributes, nl.NewRtAttr(unix.RTA_SRC, p.Source.AsSlice()))
	}
	answer, err := k.lookup(p.To, 0, attributes...)
	if err != nil || answer.Link == 0 {
		return answer, err
	}
	answer.LinkName, err = k.Name(answer.Link)
	return answer, err
}

// lookup asks for the route of a packet, or, with RTM_F_FIB_MATCH, for the one of a
// table that it takes, of which the first hop counts.
func (k *Kernel) lookup(to netip.Addr, flags uint32, attributes ...*nl.RtAttr) (egress.Answer, error) {
	hops, refusal, err := k.hopsTo(to, flags, attributes...)
	if err != nil || refusal != 0 {
		return egress.Answer{Refusal: refusal}, err
	}
	hops[0].From = netip.Prefix{} // the packet's, as asked
	return egress.Answer{Route: hops[0]}, nil
}

func (k *Kernel) hopsTo(to netip.Addr, flags uint32, attributes ...*nl.RtAttr) ([]egress.Route, egress.Refusal, error) {
	req, err := k.routeRequest(unix.RTM_GETROUTE, 0)
	if err != nil {
		return nil, 0, err
	}
	msg := &nl.RtMsg{RtMsg: unix.RtMsg{Family: uint8(family(egress.FamilyOf(to))), Dst_len: uint8(to.BitLen()), Flags: flags}}
	if to.Is4() {
		msg.Flags |= unix.RTM_F_LOOKUP_TABLE // or it names main, whichever it is; IPv6 knows no such flag
	}
	req.AddData(msg)
	req.AddData(nl.NewRtAttr(unix.RTA_DST, to.AsSlice()))
	for _, a := range attributes {
		if a.Type == unix.RTA_SRC {
			msg.Src_len = uint8(to.BitLen())
		}
		req.AddData(a)
	}
	found, err := k.parseRoutes(req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWROUTE))
	var errno unix.Errno
	if errors.As(err, &errno) && refusals[errno] != 0 {
		return nil, refusals[errno], nil
	}
	if err != nil {
		return nil, 0, fmt.Errorf("look up the route to %s: %w", to, err)
	}
	for _, r := range found {
		if len(r.hops) > 0 {
			return r.hops, 0, nil
		}
	}
	return nil, 0, fmt.Errorf("look up the route to %s: the answer is not one that egress-ip can read (an encapsulation?)", to)
}

// LinkTo returns the name of the link by which the node reaches a pod of its own;
// ok is false where it only has a default route to it, or none.
func (k *Kernel) LinkTo(pod netip.Addr) (name string, ok bool, err error) {
	index, err := k.linkTo(pod)
	if err != nil || index == 0 {
		return "", false, err
	}
	name, err = k.Name(index)
	return name, err == nil, err
}

func (k *Kernel) linkTo(pod netip.Addr) (index int, err error) {
	answer, err := k.lookup(pod, unix.RTM_F_FIB_MATCH)
	if err != nil || answer.Refusal != 0 || answer.Type != egress.Unicast || answer.Dst.Bits() == 0 {
		return 0, err
	}
	return answer.Link, nil
}

// DefaultLinks returns the indexes of the links by which the node reaches an address, as
// those of its default route. They are none where a route refuses it.
func (k *Kernel) DefaultLinks(to netip.Addr) ([]int, error) {
	hops, _, err := k.hopsTo(to, unix.RTM_F_FIB_MATCH)
	if err != nil {
		return nil, err
	}
	var links []int
	for _, hop := range hops {
		if hop.Type == egress.Unicast {
			links = append(links, hop.Link)
		}
	}
	return links, nil
}

// Marking reads what the table inet egress_ip makes of the first packet of a
// connection that a pod opens to an address; the zero pod is one without egress. IPVS may
// have sent the packet there.
func (k *Kernel) Marking(pod, to netip.Addr, byIPVS bool) (m egress.Marking, err error) {
	_, err = k.consistent(func() error {
		m, err = k.marking(pod, to, byIPVS)
		return err
	})
	return m, k.classifyError(err)
}

func (k *Kernel) marking(pod, to netip.Addr, byIPVS bool) (m egress.Marking, err error) {
	if m.Exists, err = k.hasTable(egressTable); err != nil || !m.Exists {
		return m, err
	}
	for _, name := range []string{egress.Prerouting, egress.Output} {
		if name == egress.Output && !byIPVS {
			continue
		}
		if _, right, err := k.chain(name); err != nil || !right {
			m.Altered = name
			return m, err
		}
	}
	if _, m.Guarded, err = k.chain(egress.Exit); err == nil && m.Guarded {
		m.Guarded, err = k.isHooked(chainNamed(egress.Exit))
	}
	if err != nil {
		return m, err
	}
	if _, m.ToPod, err = k.element(egress.Element{Set: egress.FamilyOf(to).Back(), Pod: to}); err != nil {
		return m, err
	}
	if pod.IsValid() {
		if _, m.Known, err = k.element(egress.Element{Set: egress.FamilyOf(pod).Guard(), Pod: pod}); err != nil {
			return m, err
		}
		var out egress.Element
		if out, m.Element, err = k.element(egress.Element{Set: egress.FamilyOf(pod).Out(), Pod: pod}); err != nil {
			return m, err
		}
		m.Chain = out.Chain
	}
	if !m.Element {
		unmarked, _, err := k.element(egress.UnmarkedElement())
		if err != nil || unmarked.Chain == "" {
			return m, err
		}
		m.Chain = unmarked.Chain
	}
	c, right, err := k.chain(m.Chain)
	if set := clusterSetOf(c, egress.FamilyOf(to)); err == nil && m.Element && right && set != "" {
		var networks []egress.Element
		if networks, err = k.elements(set, nil); err != nil {
			return m, err
		}
		if m.Cluster = slices.ContainsFunc(networks, func(e egress.Element) bool { return e.Net.Contains(to) }); m.Cluster {
			m.Set, m.Chain = set, egress.Others
			c, right, err = k.chain(m.Chain)
		}
	}
	if m.Mark = c.Mark; !right {
		m.Altered = m.Chain
	}
	return m, err
}

// chain reads a chain of the table inet egress_ip; right is false if its rules are not as egress-ip
// makes them.
func (k *Kernel) chain(name string) (c egress.Chain, right bool, err error) {
	have, err := k.rulesIn(chainNamed(name))
	if err != nil {
		return c, false, err
	}
	c.Name = name
	for _, r := range have {
		for i, e := range r.Exprs {
			switch e := e.(type) {
			case *expr.Lookup:
				if strings.HasPrefix(e.SetName, egress.IPv4.Cluster()) {
					c.Cluster4 = e.SetName
				} else if strings.HasPrefix(e.SetName, egress.IPv6.Cluster()) {
					c.Cluster6 = e.SetName
				}
			case *expr.Bitwise: // the first of the mark, which a rule compares or sets
				if c.Mask != 0 || i == 0 || !reflect.DeepEqual(r.Exprs[i-1], loadMark()) || len(e.Mask) != 4 || len(e.Xor) != 4 {
					continue
				}
				c.Mask = binary.NativeEndian.Uint32(e.Mask)
				if i+1 < len(r.Exprs) && reflect.DeepEqual(r.Exprs[i+1], storeMark()) {
					c.Mark, c.Mask = binary.NativeEndian.Uint32(e.Xor), ^c.Mask
				}
			}
		}
	}
	return c, sameRules(rulesOf(c), have), nil
}

// Translation reads what the table inet egress_ip makes of the source of a pod's
// packet when it leaves by a link, with this mark.
func (k *Kernel) Translation(pod netip.Addr, mark uint32, link int) (t egress.Translation, err error) {
	_, err = k.consistent(func() error {
		t = egress.Translation{}
		if exists, err := k.hasTable(egressTable); err != nil || !exists {
			return err
		}
		c, right, err := k.chain(egress.Postrouting)
		if err == nil && !right {
			t.Altered = egress.Postrouting
		}
		if err != nil || !right || mark&c.Mask == c.Mask {
			return err
		}
		snat, _, err := k.element(egress.Element{Set: egress.FamilyOf(pod).SNAT(), Pod: pod, Link: link})
		t.Source = snat.Address
		return err
	})
	return t, k.classifyError(err)
}

// Backends returns the addresses to which IPVS, by which kube-proxy may serve Services, sends
// what is for an address; none where that is no Service of it.
func (k *Kernel) Backends(service netip.Addr) ([]netip.Addr, error) {
	f, err := os.Open("/proc/thread-self/net/ip_vs")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // the module is not loaded
	}
	if err != nil {
		return nil, fmt.Errorf("read the Services of IPVS: %w", err)
	}
	defer f.Close()
	var backends []netip.Addr
	lines := bufio.NewScanner(f)
	for asked := false; lines.Scan(); {
		switch fields := strings.Fields(lines.Text()); {
		case len(fields) < 2:
		case fields[0] != "->":
			asked = ipvsAddress(fields[1]) == service
		case asked:
			if a := ipvsAddress(fields[1]); a.IsValid() && !slices.Contains(backends, a) {
				backends = append(backends, a)
			}
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read the Services of IPVS: %w", err)
	}
	return backends, nil
}

// ipvsAddress is that of an endpoint as the kernel prints it there: 0A60000A:0050, or
// [2001:0db8:0000:0000:0000:0000:0000:0001]:0050. It is zero where the text is none.
func ipvsAddress(endpoint string) netip.Addr {
	host := endpoint[:max(strings.LastIndexByte(endpoint, ':'), 0)]
	if inside, ok := strings.CutPrefix(host, "["); ok {
		a, _ := netip.ParseAddr(strings.TrimSuffix(inside, "]"))
		return a
	}
	b, err := hex.DecodeString(host)
	if err != nil || len(b) != 4 {
		return netip.Addr{}
	}
	return netip.AddrFrom4([4]byte(b))
}
