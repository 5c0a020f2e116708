//go:build guest

package integration

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
)

// managers are what is tried, one after the other.
func managers() []manager {
	return []manager{networkd(), networkManager(), nftablesService(), docker(), podman(), firewalld()}
}

// networkdFiles configure the links as distributions do: the primary link by hand, the other one by DHCP.
func networkdFiles() map[string]string {
	return map[string]string{
		"/etc/systemd/network/10-eth0.network": `[Match]
Name=eth0
[Network]
IPv6AcceptRA=no
Address=` + nettest.PrimaryIPv4 + `/24
Gateway=` + nettest.PrimaryGatewayIPv4 + `
Address=` + nettest.PrimaryIPv6 + `/64
Gateway=` + nettest.PrimaryGatewayIPv6 + `
`,
		"/etc/systemd/network/20-enp7s0.network": `[Match]
Name=enp7s0
[Network]
IPv6AcceptRA=no
DHCP=ipv4
Address=` + nettest.SecondIPv6 + `/64
[DHCPv4]
RouteMetric=200
UseDNS=no
UseHostname=no
UseTimezone=no
[Route]
Gateway=` + nettest.SecondGatewayIPv6 + `
Metric=2048
`,
	}
}

// keepForeign has systemd-networkd leave rules and routes of others alone, where it would remove those it does not know.
const keepForeign = "/etc/systemd/networkd.conf.d/keep.conf"

func networkd() manager {
	return manager{
		name:    "systemd-networkd",
		settled: awaitConfigured,
		acts: []act{
			{name: "restart", commands: []string{"systemctl restart systemd-networkd"}, after: healed},
			{name: "reload", commands: []string{"networkctl reload"}, after: left},
			{name: "reconfigure", commands: []string{"networkctl reconfigure enp7s0"}, after: healed},
			{name: "renew", commands: []string{"networkctl renew enp7s0"}, after: left},
			{
				name:     "restart, foreign rules and routes are kept",
				files:    map[string]string{keepForeign: "[Network]\nManageForeignRoutingPolicyRules=no\nManageForeignRoutes=no\n"},
				commands: []string{"systemctl restart systemd-networkd"}, after: healed,
			},
			{name: "reconfigure, foreign rules and routes are kept", commands: []string{"networkctl reconfigure enp7s0"}, after: healed},
		},
		end: []string{"systemctl stop systemd-networkd.socket systemd-networkd.service"},
	}
}

// awaitConfigured waits until systemd-networkd says of both links that they are configured, and they are.
func awaitConfigured(t *testing.T, g *managed) {
	t.Helper()
	addresses := map[string][]string{
		nettest.PrimaryLink: {nettest.PrimaryIPv4, nettest.PrimaryIPv6},
		nettest.SecondLink:  {nettest.SecondIPv4, nettest.SecondIPv6},
	}
	require.Eventually(t, func() bool {
		for link, want := range addresses {
			state, err := os.ReadFile(fmt.Sprintf("/run/systemd/netif/links/%d", g.Node.Index(t, link)))
			if err != nil || !strings.Contains(string(state), "ADMIN_STATE=configured\n") || !hasAddresses(t, g, link, want) {
				return false
			}
		}
		return true
	}, nettest.Within(10*time.Second), pace)
}

// hasAddresses reports whether the link has these addresses.
func hasAddresses(t *testing.T, g *managed, link string, want []string) bool {
	t.Helper()
	have := map[string]bool{}
	for _, prefix := range g.Node.Addresses(t, link) {
		have[prefix.Addr().String()] = true
	}
	for _, address := range want {
		if !have[address] {
			return false
		}
	}
	return true
}

func networkManager() manager {
	connection := func(link string, metric4, metric6 int, ipv4, ipv6 string) string {
		return fmt.Sprintf(`[connection]
id=%s
uuid=00000000-0000-4000-8000-%012d
type=ethernet
interface-name=%s
[ipv4]
%s
route-metric=%d
[ipv6]
method=manual
address1=%s
route-metric=%d
`, link, metric4, link, ipv4, metric4, ipv6, metric6)
	}
	return manager{
		name: "NetworkManager",
		files: map[string]string{
			"/etc/NetworkManager/conf.d/lab.conf": "[main]\nno-auto-default=*\n[device-lab]\nmatch-device=interface-name:enp7s0\nmanaged=1\n",
			"/etc/NetworkManager/system-connections/eth0.nmconnection": connection("eth0", 100, 1024,
				"method=manual\naddress1="+nettest.PrimaryIPv4+"/24,"+nettest.PrimaryGatewayIPv4,
				nettest.PrimaryIPv6+"/64,"+nettest.PrimaryGatewayIPv6),
			"/etc/NetworkManager/system-connections/enp7s0.nmconnection": connection("enp7s0", 200, 2048,
				"method=auto", nettest.SecondIPv6+"/64,"+nettest.SecondGatewayIPv6),
		},
		acts: []act{
			{
				// A link that another program has configured it leaves to that, until it is told otherwise.
				name:     "start",
				commands: []string{"systemctl start NetworkManager", "nm-online -s -q", "nmcli connection up enp7s0"},
				after:    either,
			},
			{name: "restart", commands: []string{"systemctl restart NetworkManager", "nm-online -s -q"}, after: left},
			{name: "reload", commands: []string{"nmcli general reload"}, after: left},
			// It removes the egress addresses one time, and not another.
			{name: "device reapply", commands: []string{"nmcli device reapply enp7s0"}, after: either},
			{name: "connection down and up", commands: []string{"nmcli connection down enp7s0", "nmcli connection up enp7s0"}, after: healed},
		},
		end: []string{"systemctl stop NetworkManager"},
	}
}
