//go:build guest

package integration

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// nftablesFiles are the site's own rules: pods are masqueraded.
func nftablesFiles() map[string]string {
	return map[string]string{
		"/etc/nftables.conf": "#!/usr/sbin/nft -f\nflush ruleset\ninclude \"" + siteRules + "\"\n",
		siteRules: `table inet site {
	chain postrouting {
		type nat hook postrouting priority srcnat
		ip saddr 10.244.0.0/16 ip daddr != 10.244.0.0/16 masquerade
		ip6 saddr fd00:10:244::/64 ip6 daddr != fd00:10:244::/64 masquerade
	}
}
`,
	}
}

const siteRules = "/etc/site.nft"

// nftablesService flushes everybody's tables: as it stops, and in the file with which it starts.
func nftablesService() manager {
	return manager{name: "nftables.service", acts: []act{
		{name: "reload", commands: []string{"systemctl reload nftables"}, after: healed},
		{name: "restart", commands: []string{"systemctl restart nftables"}, after: healed},
	}}
}

// docker is the rule set that Docker 29 writes with iptables as it starts, with a network of a user's and a container
// whose port is published; where it has turned forwarding on itself it drops what it does not know.
func docker() manager {
	lines := []string{
		"*filter", ":FORWARD DROP", ":DOCKER -", ":DOCKER-BRIDGE -", ":DOCKER-CT -", ":DOCKER-FORWARD -", ":DOCKER-INTERNAL -", ":DOCKER-USER -",
		"-A FORWARD -j DOCKER-USER", "-A FORWARD -j DOCKER-FORWARD",
		"-A DOCKER-FORWARD -j DOCKER-CT", "-A DOCKER-FORWARD -j DOCKER-INTERNAL", "-A DOCKER-FORWARD -j DOCKER-BRIDGE",
		"-A DOCKER -d CONTAINER ! -i br-shop -o br-shop -p tcp -m tcp --dport 80 -j ACCEPT",
	}
	for _, network := range []string{"docker0", "br-shop"} {
		for _, line := range []string{
			"-A DOCKER ! -i LINK -o LINK -j DROP", "-A DOCKER-BRIDGE -o LINK -j DOCKER",
			"-A DOCKER-CT -o LINK -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT", "-A DOCKER-FORWARD -i LINK -j ACCEPT",
		} {
			lines = append(lines, strings.ReplaceAll(line, "LINK", network))
		}
	}
	lines = append(lines, "COMMIT",
		"*nat", ":DOCKER -", "-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER", "-A OUTPUT ! -d LOCAL -m addrtype --dst-type LOCAL -j DOCKER",
		"-A POSTROUTING -s DEFAULT ! -o docker0 -j MASQUERADE", "-A POSTROUTING -s NETWORK ! -o br-shop -j MASQUERADE",
		"-A DOCKER ! -i br-shop -p tcp -m tcp --dport 8080 -j DNAT --to-destination TARGET", "COMMIT",
		"*raw", "-A PREROUTING -d CONTAINER ! -i br-shop -j DROP", "COMMIT", "")
	rules := strings.Join(lines, "\n")
	ipv4 := strings.NewReplacer("! -d LOCAL", "! -d 127.0.0.0/8", "DEFAULT", "172.17.0.0/16", "NETWORK", "172.18.0.0/16",
		"CONTAINER", "172.18.0.2", "TARGET", "172.18.0.2:80")
	ipv6 := strings.NewReplacer("! -d LOCAL", "! -d ::1/128", "DEFAULT", "fd00:172:17::/64", "NETWORK", "fd00:172:18::/64",
		"CONTAINER", "fd00:172:18::2", "TARGET", "[fd00:172:18::2]:80")
	m := manager{
		name:  "docker",
		files: map[string]string{"/etc/docker4.rules": ipv4.Replace(rules), "/etc/docker6.rules": ipv6.Replace(rules)},
		acts: []act{
			{
				name: "starts and drops what is forwarded", after: refused,
				commands: []string{"iptables-restore --noflush /etc/docker4.rules", "ip6tables-restore --noflush /etc/docker6.rules"},
			},
			{name: "pods are let through where users may say so", after: left},
		},
	}
	for _, pods := range []string{"iptables 10.244.0.0/16", "ip6tables fd00:10:244::/64"} {
		program, network, _ := strings.Cut(pods, " ")
		for _, direction := range []string{"-s ", "-d "} {
			m.acts[1].commands = append(m.acts[1].commands, program+" -I DOCKER-USER "+direction+network+" -j ACCEPT")
		}
		family := map[string]string{"iptables": "ip", "ip6tables": "ip6"}[program]
		for _, table := range []string{"filter", "nat", "raw"} {
			m.end = append(m.end, "nft delete table "+family+" "+table)
		}
	}
	return m
}

// podman is the table that netavark 1.17 writes for podman's default network and a container whose port is published,
// and the one that Docker 29 writes for each address family where it uses nftables.
func podman() manager {
	const netavark = `table inet netavark {
	chain INPUT {
		type filter hook input priority filter
		ip saddr 10.88.0.0/16 meta l4proto { tcp, udp } th dport 53 accept
	}
	chain FORWARD {
		type filter hook forward priority filter
		ct state invalid drop
		ct mark & 0x1000 == 0x1000 accept
		jump NETAVARK-ISOLATION-1
		ip daddr 10.88.0.0/16 ct state established,related accept
		ip saddr 10.88.0.0/16 accept
	}
	chain POSTROUTING {
		type nat hook postrouting priority srcnat
		meta mark & 0x2000 == 0x2000 masquerade
		ip saddr 10.88.0.0/16 jump nv_2f259bab_10_88_0_0_nm16
	}
	chain PREROUTING {
		type nat hook prerouting priority dstnat
		fib daddr type local jump NETAVARK-HOSTPORT-DNAT
	}
	chain OUTPUT {
		type nat hook output priority -100
		fib daddr type local jump NETAVARK-HOSTPORT-DNAT
	}
	chain NETAVARK-HOSTPORT-DNAT {
		tcp dport 8080 jump nv_2f259bab_10_88_0_0_nm16_dnat
	}
	chain NETAVARK-HOSTPORT-SETMARK {
		meta mark set meta mark | 0x2000
	}
	chain NETAVARK-ISOLATION-1 { }
	chain NETAVARK-ISOLATION-2 { }
	chain NETAVARK-ISOLATION-3 {
		oifname "podman0" drop
		jump NETAVARK-ISOLATION-2
	}
	chain nv_2f259bab_10_88_0_0_nm16 {
		ip daddr 10.88.0.0/16 accept
		ip daddr != 224.0.0.0/4 masquerade
	}
	chain nv_2f259bab_10_88_0_0_nm16_dnat {
		ip saddr 10.88.0.0/16 tcp dport 8080 jump NETAVARK-HOSTPORT-SETMARK
		ip saddr 127.0.0.1 tcp dport 8080 jump NETAVARK-HOSTPORT-SETMARK
		tcp dport 8080 ct mark set ct mark | 0x1000
		tcp dport 8080 dnat ip to 10.88.0.2:80
	}
}
`
	const bridges = `table FAMILY docker-bridges {
	map filter-forward-in-jumps { type ifname : verdict; elements = { "docker0" : jump filter-forward-in__docker0 }; }
	map filter-forward-out-jumps { type ifname : verdict; elements = { "docker0" : jump filter-forward-out__docker0 }; }
	map nat-postrouting-out-jumps { type ifname : verdict; elements = { "docker0" : jump nat-postrouting-out__docker0 }; }
	chain filter-FORWARD {
		type filter hook forward priority filter
		oifname vmap @filter-forward-in-jumps
		iifname vmap @filter-forward-out-jumps
	}
	chain nat-POSTROUTING {
		type nat hook postrouting priority srcnat
		iifname vmap @nat-postrouting-out-jumps
	}
	chain nat-PREROUTING {
		type nat hook prerouting priority dstnat
		fib daddr type local jump nat-prerouting-and-output
	}
	chain nat-prerouting-and-output {
		iifname != "docker0" tcp dport 8081 dnat to CONTAINER
	}
	chain filter-forward-in__docker0 {
		ct state established,related accept
		iifname "docker0" accept
		drop
	}
	chain filter-forward-out__docker0 {
		ct state established,related accept
		accept
	}
	chain nat-postrouting-out__docker0 {
		oifname != "docker0" FAMILY saddr NETWORK masquerade
	}
}
`
	return manager{
		name: "podman, and docker with nftables",
		files: map[string]string{"/etc/containers.nft": netavark +
			strings.NewReplacer("FAMILY", "ip", "NETWORK", "172.17.0.0/16", "CONTAINER", "172.17.0.2:80").Replace(bridges) +
			strings.NewReplacer("FAMILY", "ip6", "NETWORK", "fd00:172:17::/64", "CONTAINER", "[fd00:172:17::2]:80").Replace(bridges)},
		acts: []act{{name: "start", commands: []string{"nft -f /etc/containers.nft"}, after: left}},
		end:  []string{"nft delete table inet netavark", "nft delete table ip docker-bridges", "nft delete table ip6 docker-bridges"},
	}
}

// firewalld refuses to forward what no zone or policy allows; egress-ip's pods are no exception. As it starts it ends
// nftables.service, which flushes everybody's tables. Its command takes a guest seconds for nothing but Python, so its
// methods are called as that does.
func firewalld() manager {
	call := func(method string) []string {
		const name = "org.fedoraproject.FirewallD1"
		return []string{"busctl call --timeout=60 " + name + " /org/fedoraproject/FirewallD1 " + name + " " + method}
	}
	return manager{
		name: "firewalld",
		acts: []act{
			{
				name: "start, without a policy for pods", after: refused,
				commands: slices.Concat([]string{"systemctl start firewalld"}, call("getDefaultZone"), []string{"nft -f " + siteRules}),
			},
			{
				name: "reload, with a policy that lets pods out",
				files: map[string]string{
					"/etc/firewalld/zones/pods.xml": `<?xml version="1.0" encoding="utf-8"?>
<zone target="ACCEPT"><source address="10.244.0.0/16"/><source address="fd00:10:244::/64"/></zone>
`,
					"/etc/firewalld/policies/pods-out.xml": `<?xml version="1.0" encoding="utf-8"?>
<policy target="ACCEPT"><ingress-zone name="pods"/><egress-zone name="ANY"/></policy>
`,
				},
				commands: call("reload"), after: left,
			},
			{name: "complete reload", commands: call("completeReload"), after: left},
		},
		end: []string{"systemctl stop firewalld"},
	}
}

// trimFirewalld removes the services that no zone of firewalld names: a guest would read their files for half a minute.
func trimFirewalld(t *testing.T) {
	t.Helper()
	const dir = "/usr/lib/firewalld/"
	read := func(pattern string) (text string) {
		files, err := filepath.Glob(dir + pattern)
		require.NoError(t, err)
		for _, file := range files {
			content, err := os.ReadFile(file)
			require.NoError(t, err)
			text += string(content)
		}
		return text
	}
	named := regexp.MustCompile(`<(?:service name|include service)="([^"]+)"`)
	needed := map[string]bool{}
	for text := read("[pz]o*/*.xml"); text != ""; { // policies and zones; then services, which may include others
		next := ""
		for _, match := range named.FindAllStringSubmatch(text, -1) {
			if name := match[1]; !needed[name] {
				needed[name] = true
				next += read("services/" + name + ".xml")
			}
		}
		text = next
	}
	require.NotEmpty(t, needed)
	files, err := filepath.Glob(dir + "services/*.xml")
	require.NoError(t, err)
	for _, file := range files {
		if !needed[strings.TrimSuffix(filepath.Base(file), ".xml")] {
			require.NoError(t, os.Remove(file))
		}
	}
}
