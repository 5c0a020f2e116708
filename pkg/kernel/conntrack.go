package kernel

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"strconv"

	"github.com/egress-ip/egress-ip/pkg/egress"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// From linux/netfilter/nfnetlink_conntrack.h; the library has no filter.
const (
	ctaTupleOrig        = 1
	ctaTupleReply       = 2
	ctaFilter           = 25
	ctaTupleIP          = 1
	ctaIPv4Src          = 1
	ctaFilterOrigFlags  = 1
	ctaFilterReplyFlags = 2
	// filterIPSrc is CTA_FILTER_F_CTA_IP_SRC (net/netfilter/nf_conntrack_netlink.c).
	filterIPSrc = 1
)

// deleteConntrack drops the connections that a pod address has opened, and those
// opened to it, whatever address they were sent to. No others.
func (k *Kernel) deleteConntrack(pod netip.Addr) error {
	if err := k.deleteConnectionsOf(pod); err != nil {
		return fmt.Errorf("delete the connections of %s: %w", pod, err)
	}
	return nil
}

// manyConnections is from where on the kernel dumps what matches a filter faster
// than it flushes it: a dump locks each bucket, empty or not, but takes half as
// long an entry (5 ms + 0.25 µs against 0.42 µs, with 262,144 buckets; see
// BenchmarkDelWithFullConntrack).
const manyConnections = 30_000

// deleteConnectionsOf lets the kernel look for the entries where it can: it does so
// for an IPv4 address since Linux 5.8 in dumps, since 6.8 in flushes. An IPv6
// address it takes for "all but this one" (ctnetlink_filter_match_tuple, 5.8 to 6.18
// at least), so for those, and before, all of the address family come up to be looked at.
func (k *Kernel) deleteConnectionsOf(pod netip.Addr) error {
	count, err := connections()
	if err != nil || count == 0 {
		return err
	}
	if pod.Is4() {
		if count < manyConnections && k.flush(pod, ctaTupleOrig) == nil && k.flush(pod, ctaTupleReply) == nil {
			return nil
		}
		if k.deleteFiltered(pod, ctaTupleOrig) == nil && k.deleteFiltered(pod, ctaTupleReply) == nil {
			return nil
		}
	}
	var filters []netlink.CustomConntrackFilter
	for _, of := range []netlink.ConntrackFilterType{netlink.ConntrackOrigSrcIP, netlink.ConntrackReplySrcIP} {
		filter := &netlink.ConntrackFilter{}
		if err := filter.AddIP(of, pod.AsSlice()); err != nil {
			return err
		}
		filters = append(filters, filter)
	}
	return k.deleteMatching(egress.FamilyOf(pod), filters...)
}

// deleteMatching drops those that match one of the filters. The dump that it begins
// with is repeated as others are, with what is left.
func (k *Kernel) deleteMatching(f egress.Family, filters ...netlink.CustomConntrackFilter) error {
	_, err := dump(func() ([]struct{}, error) {
		_, err := k.ct().ConntrackDeleteFilters(netlink.ConntrackTable, netlink.InetFamily(family(f)), filters...)
		return nil, err
	})
	return err
}

// connections returns how many the network namespace has; none without conntrack.
func connections() (int, error) {
	count, err := readSysctl("/proc/sys/net/netfilter/nf_conntrack_count")
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(count)
}

// flush has the kernel find and delete the entries.
func (k *Kernel) flush(pod netip.Addr, tuple int) error {
	_, err := k.askConntrack(nl.IPCTNL_MSG_CT_DELETE, unix.NLM_F_ACK, withSource(pod, tuple))
	return err
}

// deleteFiltered has the kernel dump the entries, and deletes each.
func (k *Kernel) deleteFiltered(pod netip.Addr, tuple int) error {
	entries, err := dump(func() ([][]byte, error) {
		return k.askConntrack(nl.IPCTNL_MSG_CT_GET, unix.NLM_F_DUMP, withSource(pod, tuple))
	})
	for _, entry := range entries { // each names itself
		if _, err := k.askConntrack(nl.IPCTNL_MSG_CT_DELETE, unix.NLM_F_ACK, entry); err != nil {
			return err
		}
	}
	return err
}

// askConntrack asks for entries, or deletes them. What does not exist is no error.
func (k *Kernel) askConntrack(message, flags int, about []byte) ([][]byte, error) {
	req, err := k.request(unix.NETLINK_NETFILTER, netlink.ConntrackTable<<8|message, flags)
	if err != nil {
		return nil, err
	}
	req.AddRawData(about)
	found, err := req.Execute(unix.NETLINK_NETFILTER, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	return found, err
}

// withSource names the IPv4 entries whose tuple has the pod as its source.
func withSource(pod netip.Addr, tuple int) []byte {
	flagsOf := ctaFilterOrigFlags
	if tuple == ctaTupleReply {
		flagsOf = ctaFilterReplyFlags
	}
	t := nl.NewRtAttr(unix.NLA_F_NESTED|tuple, nil)
	t.AddRtAttr(unix.NLA_F_NESTED|ctaTupleIP, nil).AddRtAttr(ctaIPv4Src, pod.AsSlice())
	f := nl.NewRtAttr(unix.NLA_F_NESTED|ctaFilter, nil)
	f.AddRtAttr(flagsOf, native(filterIPSrc))
	// Version 1: the kernel heeds the family (it does not with 0).
	header := &nl.Nfgenmsg{NfgenFamily: unix.AF_INET, Version: 1}
	return slices.Concat(header.Serialize(), t.Serialize(), f.Serialize())
}

// staleSNAT matches connections of pods to the outside that do not have their
// egress address.
type staleSNAT struct {
	egress map[netip.Addr]netip.Addr // by pod
	// Destinations that are none of egress-ip's; single addresses, there are many, as hosts.
	inside []netip.Prefix
	hosts  map[netip.Addr]bool
}

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (m staleSNAT) MatchConntrackFlow(c *netlink.ConntrackFlow) bool {
	pod, _ := netip.AddrFromSlice(c.Forward.SrcIP)
	want, ours := m.egress[pod.Unmap()]
	if !ours {
		return false
	}
	// Answers come from where packets really go, and to what they have as their source.
	from, _ := netip.AddrFromSlice(c.Reverse.SrcIP)
	to, _ := netip.AddrFromSlice(c.Reverse.DstIP)
	from, to = from.Unmap(), to.Unmap()
	return to != want && from.IsGlobalUnicast() && !m.hosts[from] &&
		!slices.ContainsFunc(m.inside, func(p netip.Prefix) bool { return p.Contains(from) })
}

// deleteStaleSNAT drops the connections that the flows' pods have opened to the
// outside, inside being the destinations that are not, and that do not have the
// egress address.
func (k *Kernel) deleteStaleSNAT(flows []egress.Flow, inside map[egress.Family][]netip.Prefix) error {
	if count, err := connections(); err != nil || count == 0 {
		return err
	}
	for _, family := range egress.Families {
		m := staleSNAT{egress: map[netip.Addr]netip.Addr{}, hosts: map[netip.Addr]bool{}}
		for _, p := range inside[family] {
			if p.IsSingleIP() {
				m.hosts[p.Addr()] = true
			} else {
				m.inside = append(m.inside, p)
			}
		}
		for _, f := range flows {
			if f.Family() == family {
				m.egress[f.Pod] = f.Address
			}
		}
		if len(m.egress) == 0 {
			continue
		}
		if err := k.deleteMatching(family, m); err != nil {
			return fmt.Errorf("delete %s connections without their egress address: %w", family, err)
		}
	}
	return nil
}
