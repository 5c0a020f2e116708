// Package status is what `egress-ip status` shows: one value that says what is
// recorded, what of it the kernel lacks, and what the kernel has beside it; and
// the value as text for people, as JSON and as Prometheus metrics.
//
// Whoever fills a [Status] passes it through [New]. Nothing here does I/O beyond
// writing to the given writer, which gets everything in one write, or nothing.
package status

import (
	"bytes"
	"cmp"
	"encoding/json"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"time"
)

// Status is a node at one moment. Its JSON is stable: keys are added, none is
// renamed or removed. No list is null; one without elements is [].
type Status struct {
	Healthy    bool     `json:"healthy"`    // nothing is missing, unrecorded, in the way or unread, every link is up, and the guard drops nothing
	Links      []Link   `json:"links"`      // those that pods are recorded on, by name
	Pods       []Pod    `json:"pods"`       // one a pod address, by namespace, name and address
	Probe      *Probe   `json:"probe"`      // the table ip6 egress_ip_probe; null: it does not exist and is not wanted
	Missing    []string `json:"missing"`    // recorded, but not in the kernel, and not one link's or pod's: shared rules and chains, the sysctl
	Unrecorded []string `json:"unrecorded"` // egress-ip's by name, priority or table, and in the kernel, but recorded nowhere
	InTheWay   []string `json:"inTheWay"`   // somebody else's, and leads pods' packets elsewhere than by their links
	Unread     []string `json:"unread"`     // parts of the node that could not be read, and why: nothing is said of them
	Dropped    []Drop   `json:"dropped"`    // packets of pods, by the guard: they would have left by another link, or with another source
	Forged     []Drop   `json:"forged"`     // packets with a pod's source that came from elsewhere
}

// Drop is what was dropped of one pod address at one link in the last five minutes.
type Drop struct {
	Address netip.Addr `json:"address"` // of the pod
	Pod     string     `json:"pod"`     // its namespace and name, or container; empty: not recorded
	Link    string     `json:"link"`    // by which it would have left; of a forged packet: by which it arrived
	Counter
	Seconds int `json:"secondsAgo"` // since the last packet
}

// LinkState is what a link can do for its pods; in all but [LinkUp] their packets
// are refused.
type LinkState string

// The states of a link, as they are shown.
const (
	LinkUp        LinkState = "up"
	LinkNoCarrier LinkState = "no carrier" // administratively up, but it cannot send
	LinkDown      LinkState = "down"       // administratively
	LinkUnfit     LinkState = "unfit"      // nothing could leave by it, or no answer arrive: it has become a port of a bridge, say
	LinkAbsent    LinkState = "absent"     // no link has the recorded ifindex
)

// Link is an egress link, with one table of both families.
type Link struct {
	Name     string    `json:"name"` // as recorded
	State    LinkState `json:"state"`
	Index    int       `json:"ifindex"`
	Table    uint32    `json:"table"`
	Defaults []string  `json:"defaults"` // the table's default routes, one per address family, "default via 192.168.124.1"; empty: closed, nothing leaves by the link
	Pods     int       `json:"pods"`     // recorded on the link; one of two addresses is one pod
	Missing  []string  `json:"missing"`  // recorded, but not in the kernel: the link's routes, rule and chains
}

// Pod is one address of an annotated pod, and where it leaves. A dual-stack pod
// is two of them.
type Pod struct {
	Namespace     string     `json:"namespace"` // empty where the runtime names none
	Name          string     `json:"name"`      // likewise
	ContainerID   string     `json:"containerID"`
	Interface     string     `json:"interface"` // the pod's own: "eth0"
	Address       netip.Addr `json:"address"`
	EgressAddress netip.Addr `json:"egressAddress"`
	Link          string     `json:"link"`    // the egress link
	Origin        string     `json:"origin"`  // what asks for it: "annotation", or the element of defaults, "defaults[0]", as it was at the ADD
	Since         time.Time  `json:"since"`   // of the first ADD, to the second
	Sent          *Counter   `json:"sent"`    // to the link, IP headers included, since that ADD, or since the nftables table was last written whole; null: not counted
	State         string     `json:"state"`   // "healthy", or in a few words why not
	Missing       []string   `json:"missing"` // recorded, but not in the kernel, and of this pod alone
}

// Probe is the table that rewrites the source of load-balancer probes.
type Probe struct {
	Links      []string   `json:"links"`      // where probes come in
	Source     netip.Addr `json:"source"`     // of a probe as it is sent
	Translated netip.Addr `json:"translated"` // its source as pods see it
	In         Counter    `json:"in"`         // probes: source rewritten
	Out        Counter    `json:"out"`        // their answers: destination rewritten back
	Missing    []string   `json:"missing"`    // wanted, but not in the kernel
}

// Counter counts since the table that has it was last built.
type Counter struct {
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
}

// OriginAnnotation is the origin of what a pod's own annotations ask for.
const OriginAnnotation = "annotation"

// PodHealthy is the state of a pod whose packets leave as its annotation says.
const PodHealthy = "healthy"

// New puts what was found in order, and says of each pod and of the whole whether
// it is healthy; what s says of that does not count.
func New(s Status) Status {
	s = s.withLists()
	slices.SortStableFunc(s.Links, func(a, b Link) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Index, b.Index))
	})
	slices.SortStableFunc(s.Pods, func(a, b Pod) int {
		return cmp.Or(
			cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name), a.Address.Compare(b.Address),
			cmp.Compare(a.ContainerID, b.ContainerID), cmp.Compare(a.Interface, b.Interface))
	})
	for i, p := range s.Pods {
		s.Pods[i].State = s.podState(p)
		for _, dropped := range [][]Drop{s.Dropped, s.Forged} {
			for j := range dropped {
				if dropped[j].Address == p.Address {
					dropped[j].Pod = p.title()
				}
			}
		}
	}
	s.Healthy = s.missing() == 0 && len(s.Unrecorded)+len(s.InTheWay)+len(s.Unread)+len(s.Dropped) == 0 && s.linksNotUp() == 0
	return s
}

// podState looks at all that a pod needs, the nearest first.
func (s Status) podState(p Pod) string {
	if n := len(p.Missing); n > 0 {
		return strconv.Itoa(n) + " missing"
	}
	for _, l := range s.Links {
		switch {
		case l.Name != p.Link:
		case l.State != LinkUp:
			return "link " + string(l.State)
		case len(l.Missing) > 0:
			return "link misses " + strconv.Itoa(len(l.Missing))
		}
	}
	if n := len(s.Missing); n > 0 {
		return "node misses " + strconv.Itoa(n)
	}
	if len(s.Unread) > 0 {
		return "not readable"
	}
	if n := packetsOf(s.Dropped, p.Address); n > 0 {
		return strconv.FormatUint(n, 10) + " dropped"
	}
	return PodHealthy
}

// withLists returns a copy in which no list is nil.
func (s Status) withLists() Status {
	s.Links = list(s.Links)
	for i, l := range s.Links {
		s.Links[i].Defaults, s.Links[i].Missing = list(l.Defaults), list(l.Missing)
	}
	s.Pods = list(s.Pods)
	for i, p := range s.Pods {
		s.Pods[i].Missing = list(p.Missing)
	}
	if s.Probe != nil {
		p := *s.Probe
		p.Links, p.Missing = list(p.Links), list(p.Missing)
		s.Probe = &p
	}
	s.Missing, s.Unrecorded, s.InTheWay, s.Unread = list(s.Missing), list(s.Unrecorded), list(s.InTheWay), list(s.Unread)
	s.Dropped, s.Forged = list(s.Dropped), list(s.Forged)
	return s
}

func list[T any](l []T) []T { return append([]T{}, l...) }

// missing counts what is missing, whosever it is.
func (s Status) missing() int {
	n := len(s.Missing)
	for _, l := range s.Links {
		n += len(l.Missing)
	}
	for _, p := range s.Pods {
		n += len(p.Missing)
	}
	if s.Probe != nil {
		n += len(s.Probe.Missing)
	}
	return n
}

func (s Status) linksNotUp() int {
	return len(slices.DeleteFunc(slices.Clone(s.Links), func(l Link) bool { return l.State == LinkUp }))
}

// packetsOf sums what was dropped of one pod address, or, of the zero address, of all.
func packetsOf(drops []Drop, address netip.Addr) uint64 {
	n := uint64(0)
	for _, d := range drops {
		if !address.IsValid() || d.Address == address {
			n += d.Packets
		}
	}
	return n
}

// WriteJSON writes the value as an indented JSON object.
func (s Status) WriteJSON(w io.Writer) error {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(s.withLists()); err != nil {
		return err
	}
	_, err := w.Write(b.Bytes())
	return err
}
