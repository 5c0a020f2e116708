package main

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/egress-ip/egress-ip/pkg/egress"
	"github.com/egress-ip/egress-ip/pkg/node"
	"github.com/spf13/pflag"
)

var explainCommand = command{
	name: "explain", summary: "print which way a pod's packets go, and why", needs: netAdmin, arguments: 1,
	help: `usage: egress-ip explain POD [--to ADDRESS]

Prints which way the first packet of a connection goes that an annotated pod opens:
its mark, the rule that takes it, the table, the route, its source. The kernel is
asked; nothing is sent. Each line ends with what prints the same.

POD is namespace/name, an address of the pod, or the ID of its container: that of the
sandbox, as "crictl pods" has it; the first 8 characters are enough. Without --to it
is 8.8.8.8 and 2001:4860:4860::8888, as the pod has egress. Of a Service in kube-proxy's
IPVS mode it is each backend, 8 at the most; in the other modes name a backend. Marks
that somebody else sets, and masquerading behind egress-ip, are not looked at.`,
	exits: map[int]string{
		exitOK:     "it goes as the annotation says",
		exitFailed: "it does not, or the annotation names no address of the destination's family",
		exitCannot: "no such pod, or it cannot look at the node: it is not root, or the kernel refuses",
	},
	setUp: func(flags *pflag.FlagSet) action {
		destination := flags.String("to", "", "the destination's `address`, behind all DNAT")
		var pod string
		var to netip.Addr
		return action{
			check: func(arguments []string) (err error) {
				if len(arguments) == 0 {
					return errors.New("which POD? namespace/name, an address, or a container ID")
				}
				pod = arguments[0]
				if flags.Changed("to") {
					to, err = parseDestination(*destination)
				}
				return err
			},
			run: func() error { return explain(pod, to) },
		}
	},
}

// explain prints all ways that could be found.
func explain(pod string, to netip.Addr) error {
	ways, failed := node.Explain(pod, to)
	err := cannot(failed)
	for i, w := range ways {
		if i > 0 {
			fmt.Println()
		}
		if err := printWay(os.Stdout, w); err != nil {
			return cannot(err)
		}
		if !w.Right && err == nil {
			err = errPrinted
		}
	}
	return err
}

// parseDestination takes what the kernel can route.
func parseDestination(s string) (netip.Addr, error) {
	to, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("--to %q is not an IP address; look a name up first", s)
	}
	to = to.Unmap()
	if to.IsUnspecified() || to.IsLoopback() || to.IsMulticast() || to.IsLinkLocalUnicast() {
		return netip.Addr{}, fmt.Errorf("--to %s is not an address that a node forwards packets to; name a global unicast address", to)
	}
	return to, nil
}

// line is one of the numbered ones: what it is about, what it says, and the
// command that prints the same.
type line struct{ about, says, command string }

// printWay prints one way as a numbered list, with the verdict below.
func printWay(to io.Writer, w node.Explained) error {
	var b strings.Builder
	from := w.Packet.Source.String()
	if !w.HasEgress() {
		from = "its " + egress.FamilyOf(w.Packet.To).String() + " address"
	}
	destination := w.Packet.To
	if w.Service.Backend > 0 {
		destination = w.Service.Address
	}
	fmt.Fprintf(&b, "%s\n%s to %s\n", w.Title(), from, destination)
	table := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for i, l := range lines(w.Way) {
		fmt.Fprintf(table, "%d. %s\t%s\t# %s\n", i+1, l.about, l.says, l.command)
	}
	table.Flush() // a strings.Builder takes all
	if w.Agrees() {
		for _, r := range w.Unfollowed() {
			fmt.Fprintf(&b, "Packets that the rule `%s` matches may go another way.\n", r)
		}
	}
	fmt.Fprintf(&b, "%s.\n", w.Text)
	if len(w.Missing) > 0 {
		fmt.Fprintf(&b, "But this is missing, though not on the packet's way: %s; run `egress-ip resync`.\n", some(w.Missing))
	}
	_, err := io.WriteString(to, b.String())
	return err
}

func some(what []string) string {
	const most = 4
	if len(what) > most {
		what = append(what[:most:most], fmt.Sprintf("%d more", len(what)-most))
	}
	return strings.Join(what, "; ")
}

func lines(w egress.Way) []line {
	ip := "ip"
	if w.Packet.To.Is6() {
		ip = "ip -6"
	}
	var lines []line
	get := fmt.Sprintf("%s route get %s", ip, w.Packet.To)
	if w.HasEgress() {
		lines = append(lines, line{"in", w.Packet.In, fmt.Sprintf("%s route get %s", ip, w.Packet.Source)})
		get += fmt.Sprintf(" from %s iif %s", w.Packet.Source, w.Packet.In)
	}
	if w.Packet.Mark != 0 {
		get += fmt.Sprintf(" mark %#x", w.Packet.Mark)
	}
	if s := w.Service; s.Backend > 0 {
		lines = append(lines, line{"ipvs", fmt.Sprintf("%s to %s, backend %d of %d", s.Address, w.Packet.To, s.Backend, s.Backends), "ipvsadm -Ln"})
	}
	lines = append(lines, line{"mark", markText(w), "nft list table inet egress_ip"})
	lines = append(lines, ruleLines(w, ip)...)
	lines = append(lines, line{"route", routeText(w), get})
	return append(lines, line{"source", sourceText(w), fmt.Sprintf("nft list map inet egress_ip snat%d", egress.FamilyOf(w.Packet.To))})
}

func markText(w egress.Way) string {
	switch m := w.Marking; {
	case !m.Exists:
		return "none: table inet egress_ip is not there"
	case m.Altered != "":
		return fmt.Sprintf("not known: chain %s of table inet egress_ip is not as egress-ip makes it; taken for %#x", m.Altered, m.Mark)
	case m.Chain == "":
		return "none: table inet egress_ip has no element for the packet"
	case m.Element && m.Cluster:
		return fmt.Sprintf("%#x, by chain %s: the set %s has the destination", m.Mark, m.Chain, m.Set)
	case m.Element:
		return fmt.Sprintf("%#x, by chain %s", m.Mark, m.Chain)
	default:
		return fmt.Sprintf("%#x, by chain %s: map out%d does not have the pod", m.Mark, m.Chain, egress.FamilyOf(w.Packet.To))
	}
}

// ruleLines are about the rules that the packet meets, but those that do nothing,
// and the kernel's own first one where the destination is not local.
func ruleLines(w egress.Way, ip string) []line {
	if !w.Agrees() {
		return []line{{"rule", "not known: what is read of the rules and tables does not lead to the route", ip + " rule"}}
	}
	var lines []line
	for _, s := range w.Steps {
		switch {
		case s.Rule.Goto != 0 || s.Rule.Refuses != 0:
			lines = append(lines, line{"rule", s.Rule.String(), ip + " rule"})
		case s.Rule.Table == 0 || s.Route.Type == 0 && s.Rule.Table != w.Flow.Table:
		default:
			lines = append(lines, line{"rule", s.Rule.String(), ip + " rule"},
				line{"table", tableText(s), fmt.Sprintf("%s route show table %s", ip, egress.TableName(s.Rule.Table))})
		}
	}
	return lines
}

func tableText(s egress.Step) string {
	text := egress.TableName(s.Rule.Table) + ": "
	switch {
	case s.Route.Type == 0:
		return text + "no route for it; on to the next rule"
	case !s.Decides():
		return text + s.Route.Text(s.Link) + "; on to the next rule"
	}
	return text + s.Route.Text(s.Link)
}

func routeText(w egress.Way) string {
	a := w.Answer
	if a.Refusal != 0 {
		return "none: " + a.Refusal.String()
	}
	return fmt.Sprintf("%s table %s", a.Text(a.LinkName), egress.TableName(a.Table))
}

func sourceText(w egress.Way) string {
	switch t := w.Translation; {
	case w.Answer.Refusal != 0 || w.Answer.Type != egress.Unicast || !w.HasEgress():
		return "not translated by egress-ip"
	case t.Altered != "":
		return fmt.Sprintf("not known: chain %s of table inet egress_ip is not as egress-ip makes it", t.Altered)
	case !t.Source.IsValid():
		return fmt.Sprintf("%s: not translated by egress-ip", w.Packet.Source)
	default:
		return fmt.Sprintf("%s, by %s . %q", t.Source, w.Packet.Source, w.Answer.LinkName)
	}
}
