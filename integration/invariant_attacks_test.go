package integration

import (
	"fmt"
	"math/rand/v2"
	"os/exec"
	"strings"
	"testing"

	"github.com/egress-ip/egress-ip/pkg/nettest"
)

// attack is something that somebody on the node does, and takes back.
type attack struct {
	name       string
	begin, end string // for a shell on the node; TABLE is the number of enp7s0's table, INDEX its ifindex
}

// commands is an attack by commands on the node.
func commands(name, begin, end string) attack {
	return attack{name: name + ": " + begin, begin: begin, end: end}
}

// bothFamilies repeats a command, with the words for each family; -F is the option that names it.
func bothFamilies(command string, ipv4, ipv6 []string) string {
	var all []string
	for _, words := range [][]string{append([]string{"-F", "-4"}, ipv4...), append([]string{"-F", "-6"}, ipv6...)} {
		all = append(all, strings.NewReplacer(words...).Replace(command))
	}
	return strings.Join(all, "; ")
}

func pick[T any](r *rand.Rand, all ...T) T { return all[r.IntN(len(all))] }

// routeAttacks are routes, in the link's table and elsewhere, that lead away.
func routeAttacks(r *rand.Rand) []attack {
	var all []attack
	for _, where := range []string{"TABLE", "TABLE", "TABLE", "main", "local"} {
		prefixes := [][2]string{{"default", "default"}, {"0.0.0.0/1", "::/1"}, {"128.0.0.0/1", "2000::/3"}, {"198.51.100.0/24", "2001:db8:51::/64"}, {nettest.ServerIPv4, nettest.ServerIPv6}}
		prefix := prefixes[r.IntN(len(prefixes))]
		if where == "local" { // a default there would be everybody's
			prefix = prefixes[3]
		}
		way := pick(r, [2]string{"via 192.0.2.1 dev eth0", "via 2001:db8:1::1 dev eth0"}, [2]string{"via 192.168.125.1 dev enp8s0", "via fd00:125::1 dev enp8s0"})
		metric := pick(r, "metric 1", "metric 5", "metric 4278198271")
		all = append(all, commands("route",
			bothFamilies("ip -F route prepend PREFIX WAY table "+where+" "+metric, []string{"PREFIX", prefix[0], "WAY", way[0]}, []string{"PREFIX", prefix[1], "WAY", way[1]}),
			bothFamilies("ip -F route del PREFIX WAY table "+where+" "+metric, []string{"PREFIX", prefix[0], "WAY", way[0]}, []string{"PREFIX", prefix[1], "WAY", way[1]})))
	}
	for _, kind := range []string{"throw", "unreachable", "blackhole", "prohibit"} {
		prefix := pick(r, [2]string{"default", "default"}, [2]string{"198.51.100.0/24", "2001:db8:51::/64"}, [2]string{"203.0.113.0/24", "2001:db8:80::/64"})
		all = append(all, commands("route",
			bothFamilies("ip -F route add "+kind+" PREFIX table TABLE metric 1", []string{"PREFIX", prefix[0]}, []string{"PREFIX", prefix[1]}),
			bothFamilies("ip -F route del "+kind+" PREFIX table TABLE metric 1", []string{"PREFIX", prefix[0]}, []string{"PREFIX", prefix[1]})))
	}
	all = append(all,
		commands("table flushed", "ip route flush table TABLE; ip -6 route flush table TABLE", "true"),
		commands("closing routes deleted", "ip route del unreachable default table TABLE metric 4278198272; ip -6 route del unreachable default table TABLE metric 4278198272", "true"),
	)
	return all
}

// ruleAttacks are rules that come first, between, and at priorities of egress-ip's own.
func ruleAttacks(r *rand.Rand) []attack {
	var all []attack
	for _, priority := range []int{1, 100, 5997, 5998, 5999, 6000, 6001, 30000} {
		what := pick(r, "lookup main", "not fwmark 0xca6c lookup 51820", "fwmark 0x1000000/0xf000000 lookup main", "to DST lookup main", "to DST lookup 51820",
			"from POD lookup main", "from POD lookup 51820", "ipproto udp lookup 51820", "fwmark 0/0x1 lookup 51820")
		all = append(all, commands("rule",
			bothFamilies(fmt.Sprintf("ip -F route replace default WAY table 51820; ip -F rule add pref %d %s", priority, what),
				[]string{"DST", "198.51.100.0/24", "POD", "10.244.1.0/24", "WAY", "via 192.0.2.1"}, []string{"DST", "2001:db8:51::/64", "POD", "fd00:10:244::/64", "WAY", "via 2001:db8:1::1"}),
			bothFamilies(fmt.Sprintf("ip -F rule del pref %d %s; ip -F route flush table 51820", priority, what),
				[]string{"DST", "198.51.100.0/24", "POD", "10.244.1.0/24"}, []string{"DST", "2001:db8:51::/64", "POD", "fd00:10:244::/64"})))
	}
	return append(all,
		commands("rules deleted", "ip rule del pref 6000 from 10.244.1.5; ip -6 rule del pref 6000 from fd00:10:244::5", "true"),
		commands("rules deleted", "ip rule del pref 5998 lookup TABLE; ip -6 rule del pref 5998 lookup TABLE", "true"),
		commands("rules deleted", "ip rule del pref 5999 iif lo; ip rule del pref 5999; ip -6 rule del pref 5999 iif lo; ip -6 rule del pref 5999", "true"),
		commands("rules deleted", "ip rule del pref 6001; ip -6 rule del pref 6001", "true"),
	)
}

// strike begins an attack. If it must succeed, a command that fails fails the test.
func (a attack) strike(t *testing.T, c *cluster, numbers *strings.Replacer, must bool) (end func()) {
	t.Helper()
	shell := func(text, flags string) (string, error) {
		var out strings.Builder
		cmd := exec.Command("sh", flags, numbers.Replace(text))
		cmd.Stdout, cmd.Stderr = &out, &out
		err := c.Node.Run(cmd)
		return out.String(), err
	}
	if out, err := shell(a.begin, "-ec"); err != nil && must {
		t.Errorf("%s: %v\n%s", a.name, err, out)
	}
	return func() {
		_, _ = shell(a.end, "-c") // some of it may have been taken back
	}
}
