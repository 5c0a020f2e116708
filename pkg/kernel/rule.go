package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/egress-ip/egress-ip/pkg/egress"
	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// AllRules returns every rule of an address family, in the order in which they are walked.
func (k *Kernel) AllRules(f egress.Family) ([]egress.Rule, error) {
	return k.rulesLike(f, func(ruleMessage) bool { return true })
}

// Rules returns the rules of an address family that are egress-ip's by their protocol, which
// the kernel's own are, too.
func (k *Kernel) Rules(f egress.Family) ([]egress.Rule, error) {
	return k.rulesLike(f, func(r ruleMessage) bool { return r.isOurs() })
}

// presentRules returns those of an address family's rules that the kernel has. Of a list of
// thousands only these are kept.
func (k *Kernel) presentRules(f egress.Family, wanted []egress.Rule) ([]egress.Rule, error) {
	return k.rulesLike(f, func(r ruleMessage) bool { return r.isOurs() && slices.Contains(wanted, r.Rule) })
}

func (k *Kernel) rulesLike(f egress.Family, keep func(ruleMessage) bool) (rules []egress.Rule, err error) {
	found, err := k.rules(f, keep)
	for _, r := range found {
		rules = append(rules, r.Rule)
	}
	return rules, err
}

// VRFRules returns where the rules for VRFs are.
func (k *Kernel) VRFRules() (at egress.VRFRules, err error) {
	for f, first := range map[egress.Family]*uint32{egress.IPv4: &at.IPv4, egress.IPv6: &at.IPv6} {
		rules, err := k.rules(f, func(r ruleMessage) bool { return r.VRF })
		if err != nil {
			return at, err
		}
		if len(rules) > 0 {
			*first = rules[0].Priority
		}
	}
	return at, nil
}

// ruleMessage is a policy routing rule as it was read. The library does not read all selectors, nor
// whether a rule is for VRFs.
type ruleMessage struct {
	egress.Rule
	protocol uint8
}

// isOurs reports whether a rule may be egress-ip's: systemd-networkd removes rules that it did not make,
// unless they are the kernel's, so ours have its protocol.
func (r ruleMessage) isOurs() bool { return r.protocol == unix.RTPROT_KERNEL }

// rules reads the rules of an address family, in the order in which they are
// walked, and keeps some. The kernel has no filter for them: the whole list comes.
func (k *Kernel) rules(f egress.Family, keep func(ruleMessage) bool) ([]ruleMessage, error) {
	rules, err := dump(func() (rules []ruleMessage, err error) {
		req, err := k.routeRequest(unix.RTM_GETRULE, unix.NLM_F_DUMP)
		if err != nil {
			return nil, err
		}
		req.AddData(&nl.RtMsg{RtMsg: unix.RtMsg{Family: uint8(family(f))}}) // as long as struct fib_rule_hdr
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
	})
	if errors.Is(err, unix.EAFNOSUPPORT) {
		return nil, nil // a kernel without IPv6 (ipv6.disable=1) has no rules of it
	}
	if err != nil {
		return nil, fmt.Errorf("read %s rules: %w", f, err)
	}
	return rules, nil
}

// parseRule reads a rule (struct fib_rule_hdr and FRA_*, linux/fib_rules.h). Selectors that
// [egress.Rule] has as text are read as `ip rule` prints them.
func parseRule(m []byte) (ruleMessage, error) {
	if len(m) < unix.SizeofRtMsg {
		return ruleMessage{}, fmt.Errorf("a rule of %d bytes", len(m))
	}
	header := nl.DeserializeRtMsg(m)
	r := ruleMessage{Rule: egress.Rule{
		Family: egress.IPv4, Not: header.Flags&unix.FIB_RULE_INVERT != 0, Table: uint32(header.Table),
	}}
	if header.Family == unix.AF_INET6 {
		r.Family = egress.IPv6
	}
	if header.Type >= unix.FR_ACT_BLACKHOLE {
		r.Refuses = egress.RouteType(header.Type) // they have the numbers of routes' types
	}
	var more, later []string
	needs := func(format string, args ...any) { more = append(more, fmt.Sprintf(format, args...)) }
	if header.Tos != 0 {
		needs("tos %#x", header.Tos)
	}
	const sportMask, dportMask = 28, 29 // FRA_SPORT_MASK, FRA_DPORT_MASK
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
		case unix.FRA_SUPPRESS_IFGROUP:
			if group := a.uint32(); group != math.MaxUint32 {
				needs("suppress_ifgroup %d", group)
			}
		case unix.FRA_TUN_ID:
			if id := binary.BigEndian.Uint64(a.bytes(8)); id != 0 {
				needs("tun_id %d", id)
			}
		case unix.FRA_IP_PROTO: // `ip rule` prints it before the ports
			more = append([]string{fmt.Sprintf("ipproto %d", a.uint8())}, more...)
		case unix.FRA_SPORT_RANGE, unix.FRA_DPORT_RANGE:
			word, ports := "sport", a.bytes(4)
			if a.typ == unix.FRA_DPORT_RANGE {
				word = "dport"
			}
			needs("%s %d-%d", word, binary.NativeEndian.Uint16(ports), binary.NativeEndian.Uint16(ports[2:]))
		case unix.FRA_UID_RANGE:
			users := a.bytes(8)
			needs("uidrange %d-%d", binary.NativeEndian.Uint32(users), binary.NativeEndian.Uint32(users[4:]))
		case unix.FRA_FLOW, unix.FRA_PAD, sportMask, dportMask: // none, or of one that is there, too
		default:
			later = append(later, fmt.Sprintf("attribute %d", a.typ))
		}
	}
	if !r.isOurs() {
		// Without what a later kernel knows somebody else's rule would seem to match all.
		more = append(more, later...)
	}
	r.More = strings.Join(more, " ")
	return r, a.err
}

// addRule adds a rule, behind those of its priority.
func (k *Kernel) addRule(r egress.Rule) error {
	if err := k.rt().RuleAdd(fromRule(r)); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add rule %s: %w", r, noAnswer(err))
	}
	return nil
}

// deleteRule deletes a rule. With a pod's source rule goes every other rule from the pod to
// the same table, whosever: some copy rules. aws-node, when it starts, gives the last
// rule from each pod a priority of its own (amazon-vpc-cni-k8s, UpdateRuleListBySrc),
// and the next pod with the address would leave by the link.
func (k *Kernel) deleteRule(r egress.Rule) error {
	if err := k.rt().RuleDel(fromRule(r)); err != nil && !gone(err) {
		return fmt.Errorf("delete rule %s: %w", r, noAnswer(err))
	}
	if !r.From.IsValid() {
		return nil
	}
	const most = 16 // copies, unless somebody makes them as fast as they go
	copies := netlink.NewRule()
	copies.Family, copies.Src, copies.Table = family(r.Family), fromPrefix(r.From), int(r.Table)
	for range most {
		if err := k.rt().RuleDel(copies); gone(err) {
			return nil
		} else if err != nil {
			return fmt.Errorf("delete what else is as rule %s: %w", r, noAnswer(err))
		}
	}
	return nil
}

func fromRule(r egress.Rule) *netlink.Rule {
	const nop = 3 // FR_ACT_NOP (linux/fib_rules.h)
	rule := netlink.NewRule()
	rule.Priority, rule.Family, rule.Table, rule.Invert = int(r.Priority), family(r.Family), int(r.Table), r.Not
	rule.Protocol = unix.RTPROT_KERNEL
	if r.From.IsValid() {
		rule.Src = fromPrefix(r.From)
	}
	if r.To.IsValid() {
		rule.Dst = fromPrefix(r.To)
	}
	if r.Mask != 0 {
		rule.Mark, rule.Mask = r.Mark, &r.Mask
	}
	rule.IifName = r.In
	if r.MinBits != 0 {
		rule.SuppressPrefixlen = r.MinBits - 1
	}
	switch {
	case r.Goto != 0:
		rule.Goto = int(r.Goto)
	case r.Table == 0:
		rule.Type = nop
	}
	return rule
}

// ovnChain is where OVN-Kubernetes translates the egress IPs of secondary links.
const ovnChain = "OVN-KUBE-EGRESS-IP-MULTI-NIC"

// OtherEgress names another system that does egress on this node, in a way that
// would mix with ours; empty where there is none.
func (k *Kernel) OtherEgress() (string, error) {
	for _, family := range []nftables.TableFamily{nftables.TableFamilyIPv4, nftables.TableFamilyIPv6} {
		_, err := k.nft.ListChain(&nftables.Table{Family: family, Name: "nat"}, ovnChain)
		if ok, err := exists(err); err != nil {
			return "", fmt.Errorf("look for the chain %s: %w", ovnChain, k.nftError(err))
		} else if ok {
			return fmt.Sprintf("OVN-Kubernetes does egress IPs on this node (iptables chain %s); use one or the other", ovnChain), nil
		}
	}
	return "", nil
}

// Foreign names what somebody else has where egress-ip's rules and table are to
// be; empty where there is nothing. All rules come, so this is for the first
// attachment of a node.
func (k *Kernel) Foreign(families []egress.Family, at egress.Priorities) (string, error) {
	for _, f := range families {
		// Main's own rule is behind the highest priority that we may have.
		foreign, err := k.rulesLike(f, func(r ruleMessage) bool {
			return !r.isOurs() && r.Priority >= max(at.Link, 1) && r.Priority <= at.Behind && r.Priority < 32766
		})
		if err != nil {
			return "", err
		}
		if len(foreign) > 0 {
			return fmt.Sprintf("somebody else's %s rule has a priority of egress-ip's (%s); remove it, or set rulePriority", f, foreign[0]), nil
		}
	}
	names, err := k.namesIn(egressTable)
	if i := slices.IndexFunc(names, isForeignName); i >= 0 {
		return fmt.Sprintf("somebody else uses the nftables table inet %s (it has %q); rename or delete that table", egressTable.Name, names[i]), nil
	}
	return "", err
}
