package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/egress-ip/egress-ip/pkg/egress"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// ruleMessage is a policy routing rule as it was read.
type ruleMessage struct {
	egress.PolicyRule
	protocol uint8
}

// dumpRules asks the kernel for the rules of a family, in the order in which they are
// walked, and keeps some. The kernel has no filter for them: the whole list comes.
func (k *Kernel) dumpRules(f egress.Family, keep func(ruleMessage) bool) ([]ruleMessage, error) {
	req, err := k.routeRequest(unix.RTM_GETRULE, unix.NLM_F_DUMP)
	if err != nil {
		return nil, err
	}
	req.AddData(&nl.RtMsg{RtMsg: unix.RtMsg{Family: uint8(family(f))}}) // as long as struct fib_rule_hdr
	var rules []ruleMessage
	var unreadable error
	err = req.ExecuteIter(unix.NETLINK_ROUTE, unix.RTM_NEWRULE, func(m []byte) bool {
		r, err := parseRule(m)
		if err != nil {
			unreadable = fmt.Errorf("an answer that cannot be read: %w", err)
		} else if keep(r) {
			rules = append(rules, r)
		}
		return err == nil
	})
	return rules, errors.Join(err, unreadable)
}

// parseRule reads a rule (struct fib_rule_hdr and FRA_*, linux/fib_rules.h).
func parseRule(m []byte) (ruleMessage, error) {
	if len(m) < unix.SizeofRtMsg {
		return ruleMessage{}, fmt.Errorf("a rule of %d bytes", len(m))
	}
	header := nl.DeserializeRtMsg(m)
	r := ruleMessage{PolicyRule: egress.PolicyRule{
		Not: header.Flags&unix.FIB_RULE_INVERT != 0, Table: uint32(header.Table),
	}}
	if header.Tos != 0 {
		r.needs("tos %#x", header.Tos)
	}
	a := attributes{left: m[unix.SizeofRtMsg:]}
	for a.next() {
		switch a.typ {
		case unix.FRA_SRC:
			r.From = a.prefix(header.Src_len)
		case unix.FRA_DST:
			r.To = a.prefix(header.Dst_len)
		case unix.FRA_IIFNAME:
			r.In = a.string()
		case unix.FRA_OIFNAME:
			r.Out = a.string()
		case unix.FRA_GOTO:
			r.Goto = a.uint32()
		case unix.FRA_PRIORITY:
			r.Priority = a.uint32()
		case unix.FRA_FWMARK:
			r.Mark = a.uint32()
		case unix.FRA_FWMASK:
			r.Mask = a.uint32()
		case unix.FRA_TABLE:
			r.Table = a.uint32()
		case unix.FRA_SUPPRESS_PREFIXLEN:
			if bits := a.uint32(); bits != math.MaxUint32 {
				r.MinBits = int(bits) + 1
			}
		case unix.FRA_L3MDEV:
			r.VRF = a.uint8() != 0
		case unix.FRA_PROTOCOL:
			r.protocol = a.uint8()
		default:
			r.parseSelector(&a)
		}
	}
	return r, a.err
}

const (
	fraSportMask = 28 // FRA_SPORT_MASK
	fraDportMask = 29 // FRA_DPORT_MASK
)

// parseSelector reads a selector that [egress.PolicyRule] says as text.
func (r *ruleMessage) parseSelector(a *attributes) {
	switch a.typ {
	case unix.FRA_SUPPRESS_IFGROUP:
		if group := a.uint32(); group != math.MaxUint32 {
			r.needs("suppress_ifgroup %d", group)
		}
	case unix.FRA_TUN_ID:
		if id := binary.BigEndian.Uint64(a.bytes(8)); id != 0 {
			r.needs("tun_id %d", id)
		}
	case unix.FRA_IP_PROTO:
		behind := r.More // the ports, which `ip rule` prints behind it
		r.More = ""
		r.needs("ipproto %d", a.uint8())
		if behind != "" {
			r.needs("%s", behind)
		}
	case unix.FRA_SPORT_RANGE:
		ports := a.bytes(4)
		r.needs("sport %d-%d", binary.NativeEndian.Uint16(ports), binary.NativeEndian.Uint16(ports[2:]))
	case unix.FRA_DPORT_RANGE:
		ports := a.bytes(4)
		r.needs("dport %d-%d", binary.NativeEndian.Uint16(ports), binary.NativeEndian.Uint16(ports[2:]))
	case unix.FRA_UID_RANGE:
		users := a.bytes(8)
		r.needs("uidrange %d-%d", binary.NativeEndian.Uint32(users), binary.NativeEndian.Uint32(users[4:]))
	case unix.FRA_FLOW, unix.FRA_PAD, fraSportMask, fraDportMask: // none, or of one that is there, too
	default:
		// Of a later kernel: without it the rule would seem to match all.
		r.needs("attribute %d", a.typ)
	}
}

// needs adds a selector.
func (r *ruleMessage) needs(format string, args ...any) {
	if r.More != "" {
		r.More += " "
	}
	r.More += fmt.Sprintf(format, args...)
}
