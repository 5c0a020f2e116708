package conflist_test

import (
	"fmt"
	"testing"

	"github.com/egress-ip/egress-ip/pkg/config"
	"github.com/egress-ip/egress-ip/pkg/conflist"
	"github.com/stretchr/testify/require"
)

var versions = []string{"0.3.1", "0.4.0", "1.0.0", "1.1.0"}

func TestSuits(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ version, main, want string }{
		"bridge":                  {"1.0.0", `"type":"bridge"`, ""},
		"flannel":                 {"0.3.1", `"type":"flannel","delegate":{"isDefaultGateway":true}`, ""},
		"Calico":                  {"0.3.1", `"type":"calico"`, ""},
		"newest":                  {"1.1.0", `"type":"ptp"`, ""},
		"delegate is no object":   {"1.0.0", `"type":"other","delegate":[1]`, ""},
		"macvlan":                 {"1.0.0", `"type":"macvlan"`, "its main plugin is macvlan: its pods' packets go past the node's rules"},
		"ipvlan":                  {"1.0.0", `"type":"ipvlan"`, "ipvlan"},
		"host-device":             {"1.0.0", `"type":"host-device"`, "host-device"},
		"SR-IOV":                  {"1.0.0", `"type":"sriov"`, "sriov"},
		"flannel with macvlan":    {"1.0.0", `"type":"flannel","delegate":{"type":"macvlan"}`, "its main plugin is macvlan"},
		"OVN-Kubernetes":          {"0.4.0", `"type":"ovn-k8s-cni-overlay"`, "use its own EgressIP objects"},
		"Multus":                  {"0.3.1", `"type":"multus"`, "--conflist FILE"},
		"loopback":                {"1.0.0", `"type":"loopback"`, "--conflist FILE"},
		"ourselves":               {"1.0.0", `"type":"egress-ip"`, "put the main plugin before it"},
		"no version":              {"", `"type":"bridge"`, `its cniVersion is "0.1.0", and egress-ip speaks 0.3.1, 0.4.0, 1.0.0, 1.1.0`},
		"too old a version":       {"0.2.0", `"type":"bridge"`, `its cniVersion is "0.2.0"`},
		"a version of the future": {"2.0.0", `"type":"bridge"`, `its cniVersion is "2.0.0"`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := parse(t, fmt.Sprintf(`{"cniVersion":%q,"name":"n","plugins":[{%s},{"type":"portmap"}]}`, tt.version, tt.main))
			err := l.Suits(versions)
			if tt.want == "" {
				require.NoError(t, err)
				return
			}
			var unsuitable *conflist.UnsuitableError
			require.ErrorAs(t, err, &unsuitable)
			require.ErrorContains(t, err, tt.want)
		})
	}
}

// TestVersionOfSeveral: of cniVersions a runtime takes the newest that it speaks.
func TestVersionOfSeveral(t *testing.T) {
	t.Parallel()
	for keys, want := range map[string]string{
		`"cniVersion":"0.4.0"`:                                 "0.4.0",
		`"cniVersion":"0.4.0","cniVersions":["1.1.0","1.0.0"]`: "1.1.0",
		`"cniVersions":["9.0.0","0.4.0","1.0.0","0.3.1"]`:      "1.0.0",
		`"cniVersion":"1.0.0","cniVersions":["0.4.0"]`:         "1.0.0",
		`"x":1`: "",
	} {
		require.Equal(t, want, parse(t, `{`+keys+`,"name":"n","plugins":[{"type":"a"}]}`).Version, keys)
	}
}

func TestWarnings(t *testing.T) {
	t.Parallel()
	for main, want := range map[string]string{
		`"type":"bridge"`:                         "has no isGateway",
		`"type":"bridge","isGateway":false`:       "has no isGateway",
		`"type":"bridge","isGateway":true`:        "",
		`"type":"bridge","isDefaultGateway":true`: "",
		`"type":"cilium-cni"`:                     "bpf.hostLegacyRouting=true",
		`"type":"calico"`:                         "",
	} {
		warnings := parse(t, `{"cniVersion":"1.0.0","name":"n","plugins":[{`+main+`}]}`).Warnings()
		if want == "" {
			require.Empty(t, warnings, main)
			continue
		}
		require.Len(t, warnings, 1, main)
		require.Contains(t, warnings[0], want)
	}
}

// TestBeside: an entry that another plugin's rules would undo is refused, and one whose
// marks it may change is warned of.
func TestBeside(t *testing.T) {
	t.Parallel()
	const aws, calico, cilium = `{"type":"aws-cni"}`, `{"type":"calico"}`, `{"type":"calico"},{"type":"portmap"},{"type":"cilium-cni"}`
	for name, tt := range map[string]struct{ plugins, keys, refused, warned string }{
		"AWS, default":             {aws, "", `rulePriority 6000: the AWS VPC CNI's own rules`, ""},
		"AWS, one too late":        {aws, `,"rulePriority":1023`, `set "rulePriority": 600 in the entry`, ""},
		"AWS, just before":         {aws, `,"rulePriority":1022`, "", ""},
		"AWS, its mark":            {aws, `,"rulePriority":600,"markMask":"0xf0"`, "", "markMask 0x000000f0 has bits of 0x00000080"},
		"Calico, default":          {calico, "", "", `set "markMask": "0x00000f00" in the entry, or take these bits from Felix`},
		"Calico, as said":          {calico, `,"markMask":"0x00000f00"`, "", ""},
		"Cilium, Calico's":         {cilium, `,"markMask":"0x00000f00"`, "", "enableIdentityMark=false in Cilium"},
		"Cilium, as said":          {cilium, `,"markMask":"0x000000f0"`, "", ""},
		"bridge, default":          {`{"type":"bridge"}`, "", "", ""},
		"bridge, a late priority":  {`{"type":"bridge"}`, `,"rulePriority":32000`, "", ""},
		"AWS, probe table alone":   {aws, "nothing", "", ""},
		"Calico, no links at all":  {calico, "nothing", "", ""},
		"Cilium, no links, either": {cilium, "nothing", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			entry := `{"links":[{"name":"enp7s0","allow":[{"namespaces":["*"]}]}]` + tt.keys + `}`
			if tt.keys == "nothing" {
				entry = conflist.ProbeOnly
			}
			c, err := config.ParseEntry([]byte(entry))
			require.NoError(t, err)
			warnings, err := parse(t, `{"cniVersion":"1.0.0","name":"n","plugins":[`+tt.plugins+`]}`).Beside(c)
			if tt.refused != "" {
				var unsuitable *conflist.UnsuitableError
				require.ErrorAs(t, err, &unsuitable)
				require.ErrorContains(t, err, tt.refused)
				return
			}
			require.NoError(t, err)
			if tt.warned == "" {
				require.Empty(t, warnings)
				return
			}
			require.Len(t, warnings, 1)
			require.Contains(t, warnings[0], tt.warned)
		})
	}
}

// TestParseRefuses names what is wrong.
func TestParseRefuses(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		``:                                          "not valid JSON",
		`{"name":"n","plugins":[{"type":"a"}`:       "not valid JSON",
		"\ufeff" + `{}`:                             "not valid JSON",
		`[]`:                                        "not a JSON object",
		`{"name":"n"}`:                              "its key plugins has none",
		`{"name":"n","plugins":[]}`:                 "its key plugins has none",
		`{"name":"n","plugins":{}}`:                 "its key plugins is not a list",
		`{"name":"n","plugins":null}`:               "its key plugins is not a list",
		`{"plugins":[{"type":"a"}]}`:                "no key name",
		`{"name":1,"plugins":[{"type":"a"}]}`:       "no key name",
		`{"name":"n","plugins":[{"type":""}]}`:      "plugins[0] is not an object with a type",
		`{"name":"n","plugins":[{"type":"a"},"b"]}`: `plugins[1] is not an object with a type: "b"`,
		`{"name":"n","cniVersion":"x","cniVersions":["1.0.0"],"plugins":[{"type":"a"}]}`: "cniVersion",
	} {
		_, err := conflist.Parse([]byte(text))
		require.ErrorContains(t, err, want, text)
	}
}

// TestEntry: type and capabilities are added, and nothing passes that ADD would refuse.
func TestEntry(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`{}`:                                   conflist.ProbeOnly,
		`{ "links": [ {"name":"enp7s0"} ] }`:   `{"type":"egress-ip","capabilities":{"io.kubernetes.cri.pod-annotations":true},"links":[ {"name":"enp7s0"} ]}`,
		`{"counters":true,"type":"egress-ip"}`: `{"type":"egress-ip","capabilities":{"io.kubernetes.cri.pod-annotations":true},"counters":true}`,
		`{"capabilities":{"x":true},"type":"egress-ip"}`: `{"capabilities":{"x":true},"type":"egress-ip"}`,
		`{"rulePriority":7000,"probeSNAT":{"links":[]}}`: `{"type":"egress-ip","capabilities":{"io.kubernetes.cri.pod-annotations":true},"rulePriority":7000,"probeSNAT":{"links":[]}}`,
	} {
		have, err := conflist.Entry([]byte(text))
		require.NoError(t, err, text)
		require.JSONEq(t, want, string(have))
	}
	for text, want := range map[string]string{
		`{"type":"bridge"}`:                       `type: "bridge" must be "egress-ip"`,
		`{"type":"egress-ip","type":"egress-ip"}`: "key \"type\" is there twice",
		`{"link":[]}`:                             `unknown key "link"; the keys there are`,
		`{"links":[{"name":"a b"}]}`:              "links[0].name",
		`{"clusterCIDRs":["0.0.0.0/0"]}`:          "clusterCIDRs[0]",
		`{"name":"n","plugins":[]}`:               `unknown key "plugins"`,
		`[]`:                                      "not a JSON object",
		`{"links":`:                               "not valid JSON",
	} {
		_, err := conflist.Entry([]byte(text))
		require.ErrorContains(t, err, want, text)
	}
}
