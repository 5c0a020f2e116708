package config_test

import (
	"encoding/json"
	"net/netip"
	"testing"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/egress-ip/egress-ip/pkg/config"
	"github.com/stretchr/testify/require"
)

// object is JSON as a test writes it; elements are anything that marshals.
type object map[string]any

// raw is JSON that is written out, where the spelling is the point.
func raw(s string) json.RawMessage { return json.RawMessage(s) }

// stdin is what libcni makes of a plugin's entry: the entry, and beside it the
// network's name and version and a prevResult with one IPv4 and one IPv6 pod address.
func stdin(t testing.TB, entry object) []byte {
	t.Helper()
	all := object{
		"cniVersion": "1.0.0",
		"name":       "podnet",
		"type":       "egress-ip",
		"prevResult": prevResult("1.0.0", "10.244.1.5/24", "fd00:244::5/64"),
	}
	for key, value := range entry {
		all[key] = value
	}
	b, err := json.Marshal(all)
	require.NoError(t, err)
	return b
}

// prevResult is the result of a bridge plugin whose pod has these addresses.
func prevResult(version string, pod ...string) object {
	ips := []object{}
	for _, p := range pod {
		ip := object{"address": p, "interface": 1}
		if version < "1" {
			ip["version"] = "4"
			if netip.MustParsePrefix(p).Addr().Is6() {
				ip["version"] = "6"
			}
		}
		ips = append(ips, ip)
	}
	return object{
		"cniVersion": version,
		"interfaces": []object{{"name": "veth1"}, {"name": "eth0", "sandbox": "/run/netns/pod"}},
		"ips":        ips,
	}
}

// annotations is the runtimeConfig of a pod with these annotations.
func annotations(pod map[string]string) object {
	return object{"io.kubernetes.cri.pod-annotations": pod}
}

// parse reads all of it, as ADD of an annotated pod does.
func parse(stdin []byte) (config.Config, config.Request, error) {
	return parseCall(&skel.CmdArgs{ContainerID: "c1", IfName: "eth0", StdinData: stdin})
}

func parseCall(args *skel.CmdArgs) (config.Config, config.Request, error) {
	c, invalid := config.ParseEntry(args.StdinData)
	r, err := config.ParseRequest(args)
	if invalid != nil {
		return c, r, invalid
	}
	if err != nil {
		return c, r, err
	}
	err = r.NamePod(args.Args)
	return c, r, err
}

func addrs(list ...string) []netip.Addr {
	var a []netip.Addr
	for _, s := range list {
		a = append(a, netip.MustParseAddr(s))
	}
	return a
}

func prefixes(list ...string) []netip.Prefix {
	var p []netip.Prefix
	for _, s := range list {
		p = append(p, netip.MustParsePrefix(s))
	}
	return p
}
