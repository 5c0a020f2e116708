package config_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/egress-ip/egress-ip/pkg/config"
	"github.com/stretchr/testify/require"
)

// example is the whole example of DESIGN section 2.
const example = `
{ "type": "egress-ip",
  "capabilities": { "io.kubernetes.cri.pod-annotations": true },
  "links": [ { "name": "enp7s0",
               "gateways": ["192.168.124.1"],
               "allow": [ { "namespaces": ["payments", "team-*"], "addresses": ["192.168.124.96/28", "fd00:124::90/124"] } ] } ],
  "clusterCIDRs": ["10.244.0.0/16", "10.96.0.0/12"],
  "rulePriority": 6000, "tableBase": 1000, "markMask": "0x0f000000",
  "probeSNAT": { "mode": "auto", "links": ["eth0"],
                 "source": "fe80::1234:5678:9abc", "translated": "2603:1062:0:1:fe80:1234:5678:9abc" } }`

func defaults() config.Config {
	return config.Config{
		Network:      "podnet",
		RulePriority: 6000,
		TableBase:    1000,
		MarkMask:     0x0f000000,
		Probe: config.Probe{
			Mode:       config.ProbeAuto,
			Source:     addrs("fe80::1234:5678:9abc")[0],
			Translated: addrs("2603:1062:0:1:fe80:1234:5678:9abc")[0],
		},
	}
}

func TestTheExampleOfTheDesign(t *testing.T) {
	var entry object
	require.NoError(t, json.Unmarshal([]byte(example), &entry))

	c, _, err := parse(stdin(t, entry))

	require.NoError(t, err)
	want := defaults()
	want.Links = []config.Link{{
		Pattern:  "enp7s0",
		Gateways: addrs("192.168.124.1"),
		Allow: []config.Allow{{
			Namespaces: []string{"payments", "team-*"},
			Addresses:  prefixes("192.168.124.96/28", "fd00:124::90/124"),
		}},
	}}
	want.ClusterCIDRs = prefixes("10.244.0.0/16", "10.96.0.0/12")
	want.Probe.Links = []string{"eth0"}
	require.Equal(t, want, c)
	require.False(t, config.MissesCapability([]byte(example)))
}

// Nothing in the example is told from its default; here all of it differs.
func TestEveryKeyIsRead(t *testing.T) {
	c, _, err := parse(stdin(t, object{
		"args": object{"cni": object{"labels": []string{"a"}}},
		"ipam": object{},
		"dns":  object{},
		"links": []object{
			{"allow": []object{{"namespaces": []string{"*"}}}},
			{"name": "enp*", "gateways": []string{"fe80::1", "169.254.1.1"}, "allow": []object{
				{"namespaces": []string{"a"}, "addresses": []string{"192.168.124.99", "fd00::99"}},
				{"namespaces": []string{"b"}},
			}},
		},
		"clusterCIDRs": []string{"10.0.0.1", "fd00:244::/56"},
		"rulePriority": 100,
		"tableBase":    20000,
		"markMask":     "0xf0",
		"maskedMarks":  "0xffff0000",
		"counters":     true,
		"probeSNAT": object{
			"mode": "always", "links": []string{"eth1", "eth0", "eth1"},
			"source": "fe80::1", "translated": "fd00::1",
		},
	}))

	require.NoError(t, err)
	require.Equal(t, config.Config{
		Network: "podnet",
		Links: []config.Link{
			{Allow: []config.Allow{{Namespaces: []string{"*"}}}},
			{Pattern: "enp*", Gateways: addrs("fe80::1", "169.254.1.1"), Allow: []config.Allow{
				{Namespaces: []string{"a"}, Addresses: prefixes("192.168.124.99/32", "fd00::99/128")},
				{Namespaces: []string{"b"}},
			}},
		},
		ClusterCIDRs: prefixes("10.0.0.1/32", "fd00:244::/56"),
		RulePriority: 100,
		TableBase:    20000,
		MarkMask:     0xf0,
		MaskedMarks:  0xffff0000,
		Counters:     true,
		Probe: config.Probe{
			Mode: config.ProbeAlways, Links: []string{"eth0", "eth1"},
			Source: addrs("fe80::1")[0], Translated: addrs("fd00::1")[0],
		},
	}, c)
}

func TestDefaults(t *testing.T) {
	for name, entry := range map[string]object{
		"nothing is configured": {},
		"empty lists":           {"links": []int{}, "clusterCIDRs": []int{}, "probeSNAT": object{"links": []int{}}},
		"null in every place": {
			"links": nil, "clusterCIDRs": nil, "rulePriority": nil, "tableBase": nil, "markMask": nil, "maskedMarks": nil, "counters": nil,
			"probeSNAT": object{"mode": nil, "links": nil, "source": nil, "translated": nil},
		},
		"null for a whole object":      {"probeSNAT": nil, "capabilities": nil, "runtimeConfig": nil, "args": nil, "ipam": nil, "dns": nil},
		"objects that ask for nothing": {"ipam": object{}, "dns": object{}},
	} {
		t.Run(name, func(t *testing.T) {
			c, _, err := parse(stdin(t, entry))

			require.NoError(t, err)
			require.Equal(t, defaults(), c)
		})
	}
}

func TestNumbersAtTheirBounds(t *testing.T) {
	for name, tt := range map[string]struct {
		entry object
		want  func(*config.Config)
	}{
		"lowest rulePriority":      {object{"rulePriority": 3}, func(c *config.Config) { c.RulePriority = 3 }},
		"highest rulePriority":     {object{"rulePriority": 32765}, func(c *config.Config) { c.RulePriority = 32765 }},
		"lowest tableBase":         {object{"tableBase": 256}, func(c *config.Config) { c.TableBase = 256 }},
		"highest tableBase":        {object{"tableBase": 1<<31 - 1}, func(c *config.Config) { c.TableBase = 1<<31 - 1 }},
		"markMask, two bits":       {object{"markMask": "0x3"}, func(c *config.Config) { c.MarkMask = 3 }},
		"markMask, topmost bits":   {object{"markMask": "0xffff0000"}, func(c *config.Config) { c.MarkMask = 0xffff0000 }},
		"markMask, below 0x2000":   {object{"markMask": "0x1fff"}, func(c *config.Config) { c.MarkMask = 0x1fff }},
		"markMask, decimal":        {object{"markMask": "251658240"}, func(c *config.Config) { c.MarkMask = 0x0f000000 }},
		"maskedMarks, one bit":     {object{"maskedMarks": "0x80"}, func(c *config.Config) { c.MaskedMarks = 0x80 }},
		"maskedMarks, all others'": {object{"maskedMarks": "0xf0ffffff"}, func(c *config.Config) { c.MaskedMarks = 0xf0ffffff }},
		"probes, whatever is told": {object{"probeSNAT": object{"mode": "never"}}, func(c *config.Config) { c.Probe.Mode = config.ProbeNever }},
		"probes, 15 characters": {
			object{"probeSNAT": object{"links": []string{"a23456789012345"}}},
			func(c *config.Config) { c.Probe.Links = []string{"a23456789012345"} },
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, _, err := parse(stdin(t, tt.entry))

			require.NoError(t, err)
			want := defaults()
			tt.want(&want)
			require.Equal(t, want, c)
		})
	}
}

// GC's list of what is valid comes beside the configuration; keys of the
// specification are none of ours to refuse.
func TestKeysOfTheSpecificationPass(t *testing.T) {
	entry := object{"cni.dev/valid-attachments": []object{{"containerID": "c1", "ifname": "eth0"}}, "cni.dev/attachments": nil}

	require.NoError(t, config.Validate(stdin(t, entry)))
}

func TestRefusedConfiguration(t *testing.T) {
	link := func(members object) object { return object{"links": []object{{}, members}} }
	allow := func(members object) object {
		return link(object{"allow": []object{{"namespaces": []string{"a"}}, members}})
	}
	probe := func(key string, value any) object { return object{"probeSNAT": object{key: value}} }

	tests := []struct {
		name  string
		entry object
		want  []string // all of them stand in the message
	}{
		// Keys.
		{"unknown key", object{"color": 1}, []string{`"color"`, "clusterCIDRs"}},
		{"misspelt key", object{"clusterCIDR": []string{"10.0.0.0/8"}}, []string{`"clusterCIDR"`, "clusterCIDRs"}},
		{"key in another case", object{"Links": []int{}}, []string{`"Links"`, "links"}},
		{"key with a letter that folds to one of ours", object{"lin\u212as": []int{}}, []string{"\"lin\u212as\""}}, // the Kelvin sign is a k in lower case
		{"unknown key beside one of the specification", object{"cni.dev/attachments": 1, "color": 1}, []string{`"color"`}},
		{"misspelt key in links", link(object{"nmae": "enp7s0"}), []string{`"links[1].nmae"`, "name, gateways, allow"}},
		{"key of the specification in links", link(object{"cni.dev/x": 1}), []string{`"links[1].cni.dev/x"`}},
		{"key in another case in links", link(object{"Name": "enp7s0"}), []string{`"links[1].Name"`}},
		{"misspelt key in allow", allow(object{"adresses": []string{"10.0.0.1"}}), []string{`"links[1].allow[1].adresses"`, "namespaces, addresses"}},
		{"key in another case in allow", allow(object{"NAMESPACES": []string{"b"}}), []string{`"links[1].allow[1].NAMESPACES"`}},
		{"misspelt key in probeSNAT", probe("translate", "fd00::1"), []string{`"probeSNAT.translate"`, "mode, links, source, translated"}},
		{"key in another case in probeSNAT", probe("Mode", "auto"), []string{`"probeSNAT.Mode"`}},
		{"key twice in links", object{"links": raw(`[{"name":"a","name":"b"}]`)}, []string{`"links[0].name"`, "twice"}},
		{"key twice in allow", object{"links": raw(`[{"allow":[{"namespaces":["a"],"namespaces":["*"]}]}]`)}, []string{`"links[0].allow[0].namespaces"`, "twice"}},
		{"key twice in probeSNAT", object{"probeSNAT": raw(`{"mode":"auto","mode":"never"}`)}, []string{`"probeSNAT.mode"`, "twice"}},

		// Types.
		{"links is an object", object{"links": object{}}, []string{"links: an object must be a list"}},
		{"a link is a string", object{"links": []string{"enp7s0"}}, []string{`links: "enp7s0" must be an object`}},
		{"a link's name is a number", link(object{"name": 7}), []string{"links.name: 7 must be a string"}},
		{"gateways is a string", link(object{"gateways": "192.168.124.1"}), []string{`links.gateways: "192.168.124.1" must be a list`}},
		{"counters is a string", object{"counters": "yes"}, []string{`counters: "yes"`}},
		{"clusterCIDRs is a string", object{"clusterCIDRs": "10.0.0.0/8"}, []string{`clusterCIDRs: "10.0.0.0/8" must be a list`}},
		{"probeSNAT is a string", object{"probeSNAT": "never"}, []string{`probeSNAT: "never" must be an object`}},
		{"probeSNAT is a list", object{"probeSNAT": []int{}}, []string{"probeSNAT: a list must be an object"}},
		{"rulePriority is a string", object{"rulePriority": "6000"}, []string{`rulePriority: "6000" must be a whole number`}},
		{"rulePriority is a fraction", object{"rulePriority": 6000.5}, []string{"rulePriority: 6000.5 must be a whole number"}},
		{"tableBase is a string", object{"tableBase": "1000"}, []string{`tableBase: "1000" must be a whole number`}},
		{"tableBase is a bool", object{"tableBase": true}, []string{"tableBase: true must be a whole number"}},
		{"tableBase is beyond 64 bits", object{"tableBase": raw("99999999999999999999")}, []string{"tableBase: 99999999999999999999 must be a whole number"}},
		{"markMask is a number", object{"markMask": 251658240}, []string{"markMask: 251658240 must be a string"}},
		{"a capability is a string", object{"capabilities": object{"a": "yes"}}, []string{`capabilities: "yes" must be true or false`}},

		// Keys that egress-ip does not act on.
		{"ipam", object{"ipam": object{"type": "host-local"}}, []string{"ipam", "host-local", "remove"}},
		{"ipam is no object", object{"ipam": "host-local"}, []string{"ipam", "host-local"}},
		{"dns", object{"dns": object{"nameservers": []string{"10.96.0.10"}}}, []string{"dns", "10.96.0.10"}},
		{"ipMasq", object{"ipMasq": true}, []string{`"ipMasq"`}},

		// Values.
		{"link with an empty name", link(object{"name": ""}), []string{"links[1].name", "empty"}},
		{"link with a bad glob", link(object{"name": "enp[7"}), []string{"links[1].name", `"enp[7"`}},
		{"gateway does not parse", link(object{"gateways": []string{"192.168.124"}}), []string{"links[1].gateways[0]", `"192.168.124"`}},
		{"gateway is empty", link(object{"gateways": []string{""}}), []string{"links[1].gateways[0]", `""`}},
		{"gateway has a prefix", link(object{"gateways": []string{"192.168.124.1/24"}}), []string{"links[1].gateways[0]", `"192.168.124.1/24"`, "prefix"}},
		{"gateway has a zone", link(object{"gateways": []string{"fe80::1%enp7s0"}}), []string{"links[1].gateways[0]", `"fe80::1%enp7s0"`, "zone"}},
		{"gateway is IPv4 in IPv6", link(object{"gateways": []string{"::ffff:192.168.124.1"}}), []string{"links[1].gateways[0]", `"::ffff:192.168.124.1"`}},
		{"gateway is multicast", link(object{"gateways": []string{"224.0.0.1"}}), []string{"links[1].gateways[0]", `"224.0.0.1"`}},
		{"gateway is IPv6 multicast", link(object{"gateways": []string{"ff02::2"}}), []string{"links[1].gateways[0]", `"ff02::2"`}},
		{"gateway is loopback", link(object{"gateways": []string{"127.0.0.1"}}), []string{"links[1].gateways[0]", `"127.0.0.1"`}},
		{"gateway is unspecified", link(object{"gateways": []string{"::"}}), []string{"links[1].gateways[0]", `"::"`}},
		{"gateway is broadcast", link(object{"gateways": []string{"255.255.255.255"}}), []string{"links[1].gateways[0]", `"255.255.255.255"`}},
		{"two IPv4 gateways", link(object{"gateways": []string{"192.168.124.1", "fe80::1", "192.168.124.2"}}), []string{"links[1].gateways[2]", `"192.168.124.1"`, `"192.168.124.2"`}},
		{"two IPv6 gateways", link(object{"gateways": []string{"fe80::1", "fe80::2"}}), []string{"links[1].gateways[1]", `"fe80::1"`, `"fe80::2"`}},
		{"allow without namespaces", allow(object{"addresses": []string{"10.0.0.1"}}), []string{"links[1].allow[1].namespaces"}},
		{"allow with no namespace", allow(object{"namespaces": []string{}}), []string{"links[1].allow[1].namespaces"}},
		{"allow with an empty namespace", allow(object{"namespaces": []string{"a", ""}}), []string{"links[1].allow[1].namespaces[1]", `""`}},
		{"allow with a bad glob", allow(object{"namespaces": []string{"a", "team-["}}), []string{"links[1].allow[1].namespaces[1]", `"team-["`}},
		{"allow with no address", allow(object{"namespaces": []string{"a"}, "addresses": []string{}}), []string{"links[1].allow[1].addresses"}},
		{"allow with a bad address", allow(object{"namespaces": []string{"a"}, "addresses": []string{"10.0.0.0/8", "10.0.0/8"}}), []string{"links[1].allow[1].addresses[1]", `"10.0.0/8"`}},
		{"cluster CIDR does not parse", object{"clusterCIDRs": []string{"10.0.0.0/8", "10.96.0.0/33"}}, []string{"clusterCIDRs[1]", `"10.96.0.0/33"`}},
		{"cluster CIDR is empty", object{"clusterCIDRs": []string{""}}, []string{"clusterCIDRs[0]", `""`}},
		{"cluster CIDR has bits behind its length", object{"clusterCIDRs": []string{"10.96.0.1/12"}}, []string{"clusterCIDRs[0]", `"10.96.0.1/12"`, "10.96.0.0/12"}},
		{"cluster CIDR is every IPv4 address", object{"clusterCIDRs": []string{"0.0.0.0/0"}}, []string{"clusterCIDRs[0]", `"0.0.0.0/0"`}},
		{"cluster CIDR is every IPv6 address", object{"clusterCIDRs": []string{"::/0"}}, []string{"clusterCIDRs[0]", `"::/0"`}},
		{"cluster CIDR is IPv4 in IPv6", object{"clusterCIDRs": []string{"::ffff:10.0.0.0/104"}}, []string{"clusterCIDRs[0]", `"::ffff:10.0.0.0/104"`}},
		{"cluster address is IPv4 in IPv6", object{"clusterCIDRs": []string{"::ffff:10.0.0.1"}}, []string{"clusterCIDRs[0]", `"::ffff:10.0.0.1"`}},
		{"cluster address has a zone", object{"clusterCIDRs": []string{"fd00::1%eth0"}}, []string{"clusterCIDRs[0]", `"fd00::1%eth0"`}},
		{"markMask is empty", object{"markMask": ""}, []string{"markMask", `""`}},
		{"markMask is 0", object{"markMask": "0"}, []string{"markMask", `"0"`}},
		{"markMask is no number", object{"markMask": "xyz"}, []string{"markMask", `"xyz"`}},
		{"markMask is negative", object{"markMask": "-1"}, []string{"markMask", `"-1"`}},
		{"markMask has 33 bits", object{"markMask": "0x10f000000"}, []string{"markMask", `"0x10f000000"`, "32-bit"}},
		{"markMask has one bit", object{"markMask": "0x01000000"}, []string{"markMask", `"0x01000000"`, "two bits"}},
		{"markMask has two runs", object{"markMask": "0x0f0f0000"}, []string{"markMask", `"0x0f0f0000"`, "one run"}},
		{"markMask overlaps 0x4000", object{"markMask": "0x7000"}, []string{"markMask", `"0x7000"`, "kube-proxy"}},
		{"markMask overlaps 0x8000", object{"markMask": "0x38000"}, []string{"markMask", `"0x38000"`, "kube-proxy"}},
		{"markMask overlaps 0x2000", object{"markMask": "0x3f00"}, []string{"markMask", `"0x3f00"`, "0x2000", "portmap"}},
		{"maskedMarks is empty", object{"maskedMarks": ""}, []string{"maskedMarks", `""`, "32-bit"}},
		{"maskedMarks is a number", object{"maskedMarks": 128}, []string{"maskedMarks: 128 must be a string"}},
		{"maskedMarks overlaps markMask", object{"maskedMarks": "0xffff0000"}, []string{`maskedMarks: "0xffff0000"`, "markMask, 0x0f000000", "0x00000f00"}},
		{"markMask is every bit", object{"markMask": "0xffffffff"}, []string{"markMask", `"0xffffffff"`, "kube-proxy"}},
		{"tableBase is negative", object{"tableBase": -1}, []string{"tableBase: -1", "256", "2147483647"}},
		{"tableBase is 0", object{"tableBase": 0}, []string{"tableBase: 0", "256"}},
		{"tableBase is a table of the kernel", object{"tableBase": 255}, []string{"tableBase: 255", "256"}},
		{"tableBase is 2^31", object{"tableBase": 1 << 31}, []string{"tableBase: 2147483648", "2147483647"}},
		{"rulePriority is 0", object{"rulePriority": 0}, []string{"rulePriority: 0", "32765"}},
		{"rulePriority leaves no priority for the kernel's rule", object{"rulePriority": 2}, []string{"rulePriority: 2", "between 3 and 32765"}},
		{"rulePriority leaves no priority but one", object{"rulePriority": 1}, []string{"rulePriority: 1", "between 3 and 32765"}},
		{"rulePriority is negative", object{"rulePriority": -1}, []string{"rulePriority: -1"}},
		{"rulePriority is that of main", object{"rulePriority": 32766}, []string{"rulePriority: 32766", "32765"}},
		{"rulePriority is behind main", object{"rulePriority": 70000}, []string{"rulePriority: 70000"}},
		{"probe mode is unknown", probe("mode", "on"), []string{"probeSNAT.mode", `"on"`, "auto, always, never"}},
		{"probe mode is in another case", probe("mode", "Auto"), []string{"probeSNAT.mode", `"Auto"`}},
		{"probe mode is empty", probe("mode", ""), []string{"probeSNAT.mode", `""`}},
		{"probe source does not parse", probe("source", "fe80"), []string{"probeSNAT.source", `"fe80"`, "no plain"}},
		{"probe source is IPv4", probe("source", "169.254.1.1"), []string{"probeSNAT.source", `"169.254.1.1"`}},
		{"probe source is global", probe("source", "2603::1"), []string{"probeSNAT.source", `"2603::1"`, "fe80::/10"}},
		{"probe source is multicast", probe("source", "ff02::1"), []string{"probeSNAT.source", `"ff02::1"`}},
		{"probe source has a zone", probe("source", "fe80::1%eth0"), []string{"probeSNAT.source", `"fe80::1%eth0"`}},
		{"probe translated does not parse", probe("translated", "x"), []string{"probeSNAT.translated", `"x"`, "no plain"}},
		{"probe translated is IPv4", probe("translated", "1.2.3.4"), []string{"probeSNAT.translated", `"1.2.3.4"`}},
		{"probe translated is link-local", probe("translated", "fe80::1"), []string{"probeSNAT.translated", `"fe80::1"`}},
		{"probe translated is multicast", probe("translated", "ff05::1"), []string{"probeSNAT.translated", `"ff05::1"`}},
		{"probe translated is loopback", probe("translated", "::1"), []string{"probeSNAT.translated", `"::1"`}},
		{"probe link is empty", probe("links", []string{"eth0", ""}), []string{"probeSNAT.links[1]", `""`}},
		{"probe link is too long", probe("links", []string{"a234567890123456"}), []string{"probeSNAT.links[0]", `"a234567890123456"`}},
		{"probe link has a space", probe("links", []string{"eth 0"}), []string{"probeSNAT.links[0]", `"eth 0"`}},
		{"probe link has a slash", probe("links", []string{"eth/0"}), []string{"probeSNAT.links[0]", `"eth/0"`}},
		{"probe link has a colon", probe("links", []string{"eth0:1"}), []string{"probeSNAT.links[0]", `"eth0:1"`}},
		{"probe link is a glob", probe("links", []string{"eth*"}), []string{"probeSNAT.links[0]", `"eth*"`}},
		{"probe link is .", probe("links", []string{"."}), []string{"probeSNAT.links[0]", `"."`}},
		{"probe link is ..", probe("links", []string{".."}), []string{"probeSNAT.links[0]", `".."`}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			in := stdin(t, tt.entry)

			c, r, err := parse(in)

			requireInvalid(t, err, tt.want...)
			require.Zero(t, c)
			require.Equal(t, err, config.Validate(in), "STATUS sees the same as ADD")
			// A plain pod's ADD has what it needs.
			require.False(t, r.Annotated())
			require.NotNil(t, r.PrevResult)
			require.Equal(t, addrs("10.244.1.5", "fd00:244::5"), r.PodAddresses)
			// And an annotated pod's knows that it is one.
			tt.entry["runtimeConfig"] = annotations(map[string]string{"egress-ip.cni/link": "enp7s0"})
			_, r, err = parse(stdin(t, tt.entry))
			requireInvalid(t, err, tt.want...)
			require.True(t, r.Annotated())
		})
	}
}

func TestRefusedStdin(t *testing.T) {
	deep := func(open string) string { return strings.Repeat(open, 100_000) }
	for name, tt := range map[string]struct{ stdin, want string }{
		"empty":                      {"", "end of JSON"},
		"not JSON":                   {"cniVersion: 1.0.0", "invalid character"},
		"cut short":                  {`{"cniVersion":"1.0.0"`, "end of JSON"},
		"two values":                 {"{} {}", "after top-level value"},
		"a list":                     {"[]", "network configuration: a list must be an object"},
		"a string":                   {`"x"`, `network configuration: "x" must be an object`},
		"a number":                   {"1", "network configuration: 1 must be an object"},
		"100,000 brackets":           {deep("["), "max depth"},
		"100,000 objects":            {deep(`{"args":`), "max depth"},
		"100,000 brackets in a key":  {`{"args":` + deep("["), "max depth"},
		"a key twice":                {`{"links":[],"links":[]}`, `"links"`},
		"a key of the runtime twice": {`{"name":"a","name":"b"}`, `"name"`},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := parse([]byte(tt.stdin))

			requireInvalid(t, err, tt.want)
			require.Equal(t, err, config.Validate([]byte(tt.stdin)))
		})
	}
}

func TestNullStdinHasNoPrevResult(t *testing.T) {
	_, _, err := parse([]byte("null"))

	requireInvalid(t, err, "prevResult")
	require.NoError(t, config.Validate([]byte("null")), "an empty configuration is one")
}

func TestMissesCapability(t *testing.T) {
	links := `"links":[{"name":"enp7s0"}]`
	for name, tt := range map[string]struct {
		stdin string
		want  bool
	}{
		"links, capability":         {`{` + links + `,"capabilities":{"io.kubernetes.cri.pod-annotations":true}}`, false},
		"links, no capability":      {`{` + links + `}`, true},
		"links, capability off":     {`{` + links + `,"capabilities":{"io.kubernetes.cri.pod-annotations":false}}`, true},
		"links, another capability": {`{` + links + `,"capabilities":{"portMappings":true}}`, true},
		"no links":                  {`{}`, false},
		"empty links":               {`{"links":[]}`, false},
		"not JSON":                  {`{` + links, false},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, tt.want, config.MissesCapability([]byte(tt.stdin)))
		})
	}
}

func TestLinkMatches(t *testing.T) {
	for name, tt := range map[string]struct {
		pattern, link string
		want          bool
	}{
		"no pattern":                  {"", "enp7s0", true},
		"the name":                    {"enp7s0", "enp7s0", true},
		"the name in another case":    {"ENP7S0", "enp7s0", false},
		"the beginning of a name":     {"enp7s", "enp7s0", false},
		"a star":                      {"*", "enp7s0", true},
		"a star behind":               {"enp*", "enp7s0", true},
		"a star behind, another name": {"enp*", "eth0", false},
		"a question mark":             {"enp?s0", "enp7s0", true},
		"a question mark, two digits": {"enp?s0", "enp17s0", false},
		"a class":                     {"enp[78]s0", "enp8s0", true},
		"a class, another digit":      {"enp[78]s0", "enp9s0", false},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, tt.want, config.Link{Pattern: tt.pattern}.Matches(tt.link))
		})
	}
}

func TestAllowMatchesNamespace(t *testing.T) {
	for name, tt := range map[string]struct {
		namespaces []string
		namespace  string
		want       bool
	}{
		"the name":                        {[]string{"payments"}, "payments", true},
		"another name":                    {[]string{"payments"}, "shop", false},
		"the second of the list":          {[]string{"payments", "shop"}, "shop", true},
		"a glob":                          {[]string{"team-*"}, "team-a", true},
		"a glob, another name":            {[]string{"team-*"}, "steam-a", false},
		"star, a name":                    {[]string{"*"}, "payments", true},
		"star, unknown namespace":         {[]string{"*"}, "", true},
		"star behind another, unknown":    {[]string{"payments", "*"}, "", true},
		"two stars, unknown namespace":    {[]string{"**"}, "", false},
		"a glob, unknown namespace":       {[]string{"team-*"}, "", false},
		"empty pattern, unknown":          {[]string{""}, "", false},
		"nothing listed, some namespace":  {nil, "payments", false},
		"nothing listed, unknown":         {nil, "", false},
		"class of all, unknown namespace": {[]string{"[a-z]*"}, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, tt.want, config.Allow{Namespaces: tt.namespaces}.MatchesNamespace(tt.namespace))
		})
	}
}

func requireInvalid(t *testing.T, err error, wants ...string) {
	t.Helper()
	var invalid *config.InvalidError
	require.ErrorAs(t, err, &invalid)
	var annotation *config.AnnotationError
	require.NotErrorAs(t, err, &annotation)
	for _, want := range wants {
		require.ErrorContains(t, err, want)
	}
}
