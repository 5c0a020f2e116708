// Bench measures what a packet costs a node: nanoseconds of one core, from the
// link of the pods to the link behind which the world is, with egress-ip, its
// variants and its peers, in network namespaces.
//
// Machines differ, and one machine differs from minute to minute. So all variants
// stand at the same time, each in a namespace of its own; they are measured in
// turn, a few milliseconds each, for many rounds; and a ratio is the median of
// the ratios within a round.
//
// It needs root, nft, ip and iptables; it leaves the host's network alone.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

var experiments = []experiment{
	{name: "peers", systems: peers, pods: []int{1, 30, 110, 250, 1000, 5000}, packets: []packets{annotatedPackets, plainPackets}, families: families},
	{name: "strict", systems: peers, pods: []int{1, 250, 5000}, packets: []packets{annotatedPackets, plainPackets}, families: families[:1], rpFilter: 1},
	{name: "flat", systems: flatSystems, pods: []int{5000}, packets: []packets{lastPackets, plainPackets}, families: families},
	{name: "streams", systems: streamSystems, pods: []int{1, 250}, packets: []packets{annotatedPackets, plainPackets}, families: families, streams: true},
	{name: "price", systems: priceSystems, pods: []int{1}, packets: []packets{annotatedPackets, plainPackets}, families: families},
	{name: "guard", systems: guardSystems, pods: []int{1, 250, 5000}, packets: []packets{annotatedPackets, plainPackets}, families: families},
	{name: "counters", systems: countersSystems, pods: []int{250}, packets: []packets{annotatedPackets, plainPackets}, families: families},
	{name: "calls", calls: calls},
	{name: growthName, calls: growth},
}

func main() {
	// Without root, run says that it needs it.
	if os.Geteuid() == 0 && !isInside() {
		os.Exit(inside())
	}
	err := run(os.Stdout, os.Args[1:])
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(w io.Writer, args []string) error {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	output := flags.String("o", "text", "`format` of the output: text or json")
	only := flags.String("only", "", "the one `experiment` to make: "+names())
	pods := flags.String("pods", "", "`numbers` of annotated pods, like 1,250")
	var o options
	flags.IntVar(&o.Rounds, "rounds", 40, "how often each variant is measured in a build")
	flags.IntVar(&o.Builds, "builds", 3, "how often the nodes are built anew")
	if err := flags.Parse(args); err != nil {
		return err
	}
	chosen, err := choose(*only)
	switch {
	case err != nil:
		return err
	case flags.NArg() > 0:
		return fmt.Errorf("%q: there are only flags; see -h", flags.Arg(0))
	case *output != "text" && *output != "json":
		return fmt.Errorf("-o %s: there are text and json", *output)
	case o.Rounds < 1 || o.Builds < 1:
		return fmt.Errorf("-rounds %d, -builds %d: one at least of each", o.Rounds, o.Builds)
	case os.Geteuid() != 0:
		return errors.New("network namespaces need root")
	}
	if o.pods, err = parsePods(*pods); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	defer stop()
	if *output == "json" {
		return writeJSON(ctx, w, chosen, o)
	}
	return writeText(ctx, w, chosen, o)
}

// choose returns the experiment of that name; without one, all.
func choose(name string) ([]experiment, error) {
	if name == "" {
		return experiments, nil
	}
	for _, e := range experiments {
		if e.name == name {
			return []experiment{e}, nil
		}
	}
	return nil, fmt.Errorf("-only %s: there are %s", name, names())
}

func names() string {
	var all []string
	for _, e := range experiments {
		all = append(all, e.name)
	}
	return strings.Join(all, ", ")
}

// mostPods is less than the number of the first plain pod.
const mostPods = 20000

// parsePods returns nothing for no text.
func parsePods(text string) ([]int, error) {
	if text == "" {
		return nil, nil
	}
	var pods []int
	for part := range strings.SplitSeq(text, ",") {
		n, err := strconv.Atoi(part)
		if err != nil || n < 1 || n > mostPods {
			return nil, fmt.Errorf("-pods %s: %q is no number from 1 to %d", text, part, mostPods)
		}
		pods = append(pods, n)
	}
	return pods, nil
}
