package integration

import (
	"bytes"
	"encoding/json"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
)

// The codes of refusals; see README.md.
const (
	codeDecoding   = types.ErrDecodingFailure
	codeConfig     = types.ErrInvalidNetworkConfig
	codeAnnotation = 100
	codeNode       = 101
)

// refused calls ADD with a stdin, and requires a CNI error on stdout, a non-zero
// exit, and a node that is as before.
func (c *cluster) refused(t *testing.T, stdin, netns, namespace string) types.Error {
	t.Helper()
	before := c.state(t)
	cmd := exec.Command(filepath.Join(bin, "egress-ip"))
	cmd.Env = []string{
		"CNI_COMMAND=ADD", "CNI_CONTAINERID=refused", "CNI_IFNAME=eth0", "CNI_NETNS=" + netns, "CNI_PATH=" + bin,
		"CNI_ARGS=K8S_POD_NAMESPACE=" + namespace,
	}
	cmd.Stdin = strings.NewReader(stdin)
	var stdout bytes.Buffer
	cmd.Stdout = &stdout
	require.Error(t, c.Node.Run(cmd), "stdout: %s", &stdout)
	var e types.Error
	require.NoError(t, json.Unmarshal(stdout.Bytes(), &e), "stdout: %s", &stdout)
	require.Equal(t, before, c.state(t))
	return e
}

// TestRefusedAnnotations: what only the node can tell; the rest is in package config.
func TestRefusedAnnotations(t *testing.T) {
	t.Parallel()
	c := newCluster(t, nettest.LabOptions{SecondDefault: true, ThirdLink: true}, "1.0.0")
	c.command(t, "ip", "route", "add", "198.51.100.0/24", "via", "192.168.124.7", "dev", "enp7s0")
	c.command(t, "ip", "-6", "route", "add", "2001:db8:100::/64", "via", "fd00:124::7", "dev", "enp7s0")
	c.command(t, "ip", "address", "add", "192.168.124.50/32", "dev", nettest.PrimaryLink)
	c.command(t, "ip", "address", "add", "192.168.126.10/24", "dev", "enp8s0")
	c.Node.SetDown(t, "enp8s0")
	pod := c.PodVeth(t, "10.244.1.5", "fd00:10:244::5")

	open := func(name string) object {
		link := object{"allow": []object{{"namespaces": []string{"*"}, "addresses": []string{"192.168.0.0/16", "192.0.2.0/24", "fd00::/16"}}}}
		if name != "" {
			link["name"] = name
		}
		return egressIP(object{"links": []object{link}})
	}
	const addressKey, linkKey = "egress-ip.cni/address", "egress-ip.cni/link"
	for name, tt := range map[string]struct {
		entry       object
		annotations annotations
		namespace   string
		want        []string
	}{
		"next hop":                {open("enp7s0"), address("192.168.124.7"), "a", []string{addressKey, "192.168.124.7", "next hop"}},
		"next hop of the default": {open(""), address("192.168.124.1"), "a", []string{addressKey, "192.168.124.1", "next hop"}},
		"IPv6 next hop":           {open("enp7s0"), address("fd00:124::7"), "a", []string{addressKey, "fd00:124::7", "next hop"}},
		"configured next hop": {egressIP(object{"links": []object{{
			"name": "enp7s0", "gateways": []string{"192.168.124.9"},
			"allow": []object{{"namespaces": []string{"*"}, "addresses": []string{"192.168.124.0/24"}}},
		}}}), address("192.168.124.9"), "a", []string{"192.168.124.9", "next hop"}},
		"another link's address":          {open("enp7s0"), address("192.168.124.50"), "a", []string{"192.168.124.50", "eth0"}},
		"network address":                 {open("enp7s0"), address("192.168.124.0"), "a", []string{"192.168.124.0", "network address"}},
		"IPv6 network address":            {open("enp7s0"), address("fd00:124::"), "a", []string{"fd00:124::", "network address"}},
		"broadcast address":               {open("enp7s0"), address("192.168.124.255"), "a", []string{"192.168.124.255", "broadcast address"}},
		"no link holds it":                {open(""), address("192.168.99.9"), "a", []string{addressKey, "192.168.99.9"}},
		"the named link does not":         {open(""), annotations{addressKey: "192.168.124.99", linkKey: "eth0"}, "a", []string{"192.168.124.99", "eth0", "192.0.2.0/24"}},
		"link not there":                  {open(""), annotations{linkKey: "enp9s0"}, "a", []string{linkKey, "enp9s0", "no such link"}},
		"link not there, with address":    {open(""), annotations{addressKey: egress4, linkKey: "enp9s0"}, "a", []string{linkKey, "enp9s0"}},
		"configured link not there":       {open("enp9s0"), address(egress4), "a", []string{egress4, "enp9s0"}},
		"link down":                       {open("enp8s0"), address("192.168.125.99"), "a", []string{"enp8s0", "down"}},
		"link down, by annotation":        {open(""), annotations{linkKey: "enp8s0"}, "a", []string{"enp8s0", "down"}},
		"link down, IPv6":                 {open("enp8s0"), address("fd00:125::99"), "a", []string{"enp8s0", "down"}},
		"link not listed":                 {open("enp7s0"), annotations{linkKey: "eth0"}, "a", []string{linkKey, "eth0", "does not list"}},
		"address not allowed":             {egressIP(nil), address("192.168.124.120"), "payments", []string{"192.168.124.120", `"payments"`}},
		"second address not allowed":      {egressIP(nil), address(egress4 + ",fd00:124::1:1"), "payments", []string{"fd00:124::1:1"}},
		"namespace not allowed":           {egressIP(nil), address(egress4), "other", []string{egress4, `"other"`}},
		"no namespace":                    {egressIP(nil), address(egress4), "", []string{egress4, "without a namespace"}},
		"own address not allowed":         {egressIP(nil), annotations{linkKey: "enp7s0"}, "payments", []string{linkKey, "192.168.124.10"}},
		"no allow":                        {egressIP(object{"links": []object{{"name": "enp7s0"}}}), address(egress4), "payments", []string{egress4, "allow"}},
		"no links":                        {egressIP(object{"links": nil}), address(egress4), "payments", []string{egress4, "no links"}},
		"one bad family of two":           {egressIP(nil), address(egress4 + ",fd00:124::"), "payments", []string{"fd00:124::"}},
		"prefix length":                   {egressIP(nil), address(egress4 + "/32"), "payments", []string{addressKey, egress4 + "/32"}},
		"unknown annotation":              {egressIP(nil), annotations{"egress-ip.cni/adress": egress4}, "payments", []string{"egress-ip.cni/adress", egress4, addressKey}},
		"only a family that is not there": {egressIP(nil), address("192.168.124.99"), "payments", []string{"192.168.124.99", "fd00:10:244::5"}},
	} {
		t.Run(name, func(t *testing.T) {
			addresses := []string{"10.244.1.5", "fd00:10:244::5"}
			if name == "only a family that is not there" {
				addresses = addresses[1:]
			}
			e := c.refused(t, request(t, tt.entry, tt.annotations, addresses...), pod.Path(), tt.namespace)
			require.EqualValues(t, codeAnnotation, e.Code, e.Msg)
			for _, want := range tt.want {
				require.Contains(t, e.Msg, want)
			}
		})
	}
}

// TestRefusedStdin: what is no configuration at all, or one with a mistake.
func TestRefusedStdin(t *testing.T) {
	t.Parallel()
	c := newCluster(t, nettest.LabOptions{}, "1.0.0")
	pod := c.PodVeth(t, "10.244.1.5", "")
	with := func(key string, value any) string {
		return request(t, egressIP(object{key: value}), both, "10.244.1.5")
	}
	for name, tt := range map[string]struct {
		stdin string
		code  uint
		want  string
	}{
		"empty":         {"", codeDecoding, "stdin"},
		"no JSON":       {"hello", codeDecoding, "invalid character"},
		"10 MiB":        {with("links", strings.Repeat("x", 10<<20)), codeDecoding, "1048576"},
		"deep":          {strings.Repeat(`{"a":`, 100_000), codeDecoding, "depth"},
		"misspelt key":  {with("rulePriorty", 1), codeConfig, "rulePriorty"},
		"bad mask":      {with("markMask", "0xfffffffff"), codeConfig, "markMask"},
		"priority":      {with("rulePriority", 32766), codeConfig, "32766"},
		"no prevResult": {`{"cniVersion":"1.0.0","name":"net","type":"egress-ip"}`, codeConfig, "prevResult"},
	} {
		t.Run(name, func(t *testing.T) {
			e := c.refused(t, tt.stdin, pod.Path(), "payments")
			require.EqualValues(t, tt.code, e.Code, e.Msg)
			require.Contains(t, e.Msg+e.Details, tt.want)
		})
	}
	t.Run("netns of the node", func(t *testing.T) {
		e := c.refused(t, request(t, egressIP(nil), both, "10.244.1.5"), c.Node.Path(), "payments")
		require.Contains(t, e.Msg, c.Node.Path())
	})
}
