package config_test

import (
	"errors"
	"net"
	"testing"

	"github.com/containernetworking/cni/pkg/skel"
	types040 "github.com/containernetworking/cni/pkg/types/040"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/egress-ip/egress-ip/pkg/config"
	"github.com/stretchr/testify/require"
)

func TestRequestOfAnAnnotatedPod(t *testing.T) {
	_, r, err := parseCall(&skel.CmdArgs{
		ContainerID: "0123abc",
		Netns:       "/run/netns/pod",
		IfName:      "net1",
		Args:        "IgnoreUnknown=1;K8S_POD_NAMESPACE=payments;K8S_POD_NAME=till-0",
		StdinData: stdin(t, object{
			"prevResult":    prevResult("1.0.0", "10.244.1.5/24"),
			"runtimeConfig": annotations(map[string]string{"egress-ip.cni/address": "192.168.124.99", "egress-ip.cni/link": "enp7s0"}),
		}),
	})

	require.NoError(t, err)
	require.Equal(t, config.Request{
		ContainerID:    "0123abc",
		IfName:         "net1",
		CNIVersion:     "1.0.0",
		PodNamespace:   "payments",
		PodName:        "till-0",
		PodAddresses:   addrs("10.244.1.5"),
		HostInterfaces: []string{"veth1"},
		Addresses:      addrs("192.168.124.99"),
		Link:           "enp7s0",
		PrevResult: &types100.Result{
			CNIVersion: "1.0.0",
			Interfaces: []*types100.Interface{{Name: "veth1"}, {Name: "eth0", Sandbox: "/run/netns/pod"}},
			IPs: []*types100.IPConfig{{
				Interface: types100.Int(1),
				Address:   net.IPNet{IP: net.IPv4(10, 244, 1, 5), Mask: net.CIDRMask(24, 32)},
			}},
		},
	}, r)
}

func TestAnnotations(t *testing.T) {
	type pod = map[string]string
	for name, tt := range map[string]struct {
		runtimeConfig any
		want          config.Request // Addresses and Link
		annotated     bool
	}{
		"no runtimeConfig":     {nil, config.Request{}, false},
		"no annotations":       {object{}, config.Request{}, false},
		"annotations are null": {object{"io.kubernetes.cri.pod-annotations": nil}, config.Request{}, false},
		"other capabilities":   {object{"portMappings": []object{{"hostPort": 80}}}, config.Request{}, false},
		"annotations are none": {annotations(pod{}), config.Request{}, false},
		"others' annotations": {
			annotations(pod{"kubernetes.io/config.seen": "x", "egress-ip.cni": "x", "egress-ip.cnix/address": "x", "xegress-ip.cni/address": "x", "Address": "x"}),
			config.Request{}, false,
		},
		"an address beside others' annotations": {
			annotations(pod{"kubernetes.io/config.seen": "x", "egress-ip.cni/address": "192.168.124.99"}),
			config.Request{Addresses: addrs("192.168.124.99")}, true,
		},
		"an IPv6 address, not in its short form": {
			annotations(pod{"egress-ip.cni/address": "FD00:124:0::99"}),
			config.Request{Addresses: addrs("fd00:124::99")}, true,
		},
		"one address per address family": {
			annotations(pod{"egress-ip.cni/address": "192.168.124.99,fd00:124::99"}),
			config.Request{Addresses: addrs("192.168.124.99", "fd00:124::99")}, true,
		},
		"one address per address family, with spaces": {
			annotations(pod{"egress-ip.cni/address": " fd00:124::99 , 192.168.124.99\t"}),
			config.Request{Addresses: addrs("fd00:124::99", "192.168.124.99")}, true,
		},
		"a link alone": {annotations(pod{"egress-ip.cni/link": "enp7s0"}), config.Request{Link: "enp7s0"}, true},
		"a glob":       {annotations(pod{"egress-ip.cni/link": "enp[78]*"}), config.Request{Link: "enp[78]*"}, true},
		"both": {
			annotations(pod{"egress-ip.cni/link": "enp7s0", "egress-ip.cni/address": "192.168.124.99"}),
			config.Request{Addresses: addrs("192.168.124.99"), Link: "enp7s0"}, true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			entry := object{}
			if tt.runtimeConfig != nil {
				entry["runtimeConfig"] = tt.runtimeConfig
			}

			_, r, err := parse(stdin(t, entry))

			require.NoError(t, err)
			require.Equal(t, tt.want.Addresses, r.Addresses)
			require.Equal(t, tt.want.Link, r.Link)
			require.Equal(t, tt.annotated, r.Annotated())
			require.Equal(t, addrs("10.244.1.5", "fd00:244::5"), r.PodAddresses)
			require.NotNil(t, r.PrevResult)
		})
	}
}

// "A family for which no address is named is left alone, and so is an address of
// a family that the pod does not have, as long as another one applies."
func TestAnAddressOfAFamilyThatThePodLacks(t *testing.T) {
	both := annotations(map[string]string{"egress-ip.cni/address": "192.168.124.99,fd00:124::99"})
	for name, pod := range map[string]string{"IPv4 pod": "10.244.1.5/24", "IPv6 pod": "fd00:244::5/64"} {
		t.Run(name, func(t *testing.T) {
			_, r, err := parse(stdin(t, object{"runtimeConfig": both, "prevResult": prevResult("1.0.0", pod)}))

			require.NoError(t, err)
			require.Equal(t, addrs("192.168.124.99", "fd00:124::99"), r.Addresses)
		})
	}
}

func TestRefusedAnnotation(t *testing.T) {
	const address, link = "egress-ip.cni/address", "egress-ip.cni/link"
	dual := []string{"10.244.1.5/24", "fd00:244::5/64"}
	tests := []struct {
		name       string
		key, value string
		pod        []string
		want       []string // in the problem
	}{
		{"address does not parse", address, "192.168.124", dual, []string{`"192.168.124"`, "no IP address"}},
		{"address is a name", address, "gateway.example", dual, []string{`"gateway.example"`, "no IP address"}},
		{"second address does not parse", address, "192.168.124.99,fd00::124::99", dual, []string{`"fd00::124::99"`}},
		{"address with leading zeros", address, "192.168.124.099", dual, []string{`"192.168.124.099"`}},
		{"addresses without a comma", address, "192.168.124.99 fd00:124::99", dual, []string{`"192.168.124.99 fd00:124::99"`}},
		{"address is empty", address, "", dual, []string{"empty"}},
		{"address is a space", address, " ", dual, []string{"empty"}},
		{"address and a comma", address, "192.168.124.99,", dual, []string{"empty element"}},
		{"address has a prefix", address, "192.168.124.99/24", dual, []string{`"192.168.124.99/24"`, "prefix length"}},
		{"address has a zone", address, "fd00:124::99%enp7s0", dual, []string{"fd00:124::99%enp7s0", "zone"}},
		{"address is IPv4 in IPv6", address, "::ffff:192.168.124.99", dual, []string{"::ffff:192.168.124.99", "IPv6 form"}},
		{"address is multicast", address, "224.0.0.99", dual, []string{"224.0.0.99", "multicast"}},
		{"address is IPv6 multicast", address, "ff05::99", dual, []string{"ff05::99", "multicast"}},
		{"address is loopback", address, "127.1.2.3", dual, []string{"127.1.2.3", "loopback"}},
		{"address is IPv6 loopback", address, "::1", dual, []string{"::1", "loopback"}},
		{"address is link-local", address, "169.254.0.99", dual, []string{"169.254.0.99", "link-local"}},
		{"address is IPv6 link-local", address, "fe80::99", dual, []string{"fe80::99", "link-local"}},
		{"address is unspecified", address, "0.0.0.0", dual, []string{"0.0.0.0", "unspecified"}},
		{"address is IPv6 unspecified", address, "::", dual, []string{"::", "unspecified"}},
		{"address is broadcast", address, "255.255.255.255", dual, []string{"255.255.255.255", "broadcast"}},
		{"two IPv4 addresses", address, "192.168.124.99,fd00:124::99,192.168.124.98", dual, []string{"192.168.124.99", "192.168.124.98", "one address family"}},
		{"two IPv6 addresses", address, "fd00:124::99,fd00:124::98", dual, []string{"fd00:124::99", "fd00:124::98", "one address family"}},
		{"one address twice", address, "192.168.124.99,192.168.124.99", dual, []string{"one address family"}},
		{"IPv6 address for an IPv4 pod", address, "fd00:124::99", dual[:1], []string{"only 10.244.1.5"}},
		{"IPv4 address for an IPv6 pod", address, "192.168.124.99", dual[1:], []string{"only fd00:244::5"}},
		{"address for a pod without one", address, "192.168.124.99", nil, []string{"no address of the pod"}},
		{"link for a pod without an address", link, "enp7s0", nil, []string{"no address of the pod"}},
		{"link is empty", link, "", dual, []string{"no name of a link"}},
		{"link is a bad glob", link, "enp[7", dual, []string{"no name of a link"}},
		{"unknown annotation", "egress-ip.cni/gateway", "192.168.124.1", dual, []string{"not known", address, link}},
		{"annotation in another case", "egress-ip.cni/Address", "192.168.124.99", dual, []string{"not known", address}},
		{"prefix in another case", "Egress-ip.cni/address", "192.168.124.99", dual, []string{"not known", address}},
		{"link with a prefix in another case", "EGRESS-IP.CNI/link", "enp7s0", dual, []string{"not known", link}},
		{"a letter that folds to one of ours", "egress-ip.cni/lin\u212a", "enp7s0", dual, []string{"not known", link}},
		{"unknown annotation with a prefix in another case", "Egress-IP.cni/gateway", "192.168.124.1", dual, []string{"not known", address, link}},
		{"annotation without a name", "egress-ip.cni/", "x", dual, []string{"not known"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, _, err := parse(stdin(t, object{
				"prevResult":    prevResult("1.0.0", tt.pod...),
				"runtimeConfig": annotations(map[string]string{tt.key: tt.value}),
			}))

			annotation := requireAnnotation(t, err)
			require.Equal(t, tt.key, annotation.Annotation)
			require.Equal(t, tt.value, annotation.Value)
			require.ErrorContains(t, err, tt.key)
			require.ErrorContains(t, err, `"`+tt.value+`"`)
			for _, want := range tt.want {
				require.Contains(t, annotation.Problem, want)
			}
		})
	}
}

// The order of a map is random; the message must not be.
func TestOfTwoBadAnnotationsTheFirstIsNamed(t *testing.T) {
	for range 20 {
		_, _, err := parse(stdin(t, object{
			"runtimeConfig": annotations(map[string]string{"egress-ip.cni/a": "1", "egress-ip.cni/b": "2", "egress-ip.cni/link": ""}),
		}))

		require.Equal(t, "egress-ip.cni/a", requireAnnotation(t, err).Annotation)
	}
}

func TestRuntimeConfigOfAWrongTypeIsTheRuntimesFault(t *testing.T) {
	_, r, err := parse(stdin(t, object{"runtimeConfig": []int{}}))

	requireInvalid(t, err, "runtimeConfig: a list must be an object")
	require.Zero(t, r)
}

func TestAnnotationsOfAWrongTypeAreTheRuntimesFault(t *testing.T) {
	for name, value := range map[string]any{
		"a list":               []string{"egress-ip.cni/address"},
		"a string":             "egress-ip.cni/address",
		"values are no string": object{"egress-ip.cni/address": 1},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := parse(stdin(t, object{"runtimeConfig": object{"io.kubernetes.cri.pod-annotations": value}}))

			requireInvalid(t, err, "io.kubernetes.cri.pod-annotations", "map of strings")
		})
	}
}

func TestRequestErrorsNameTheAnnotation(t *testing.T) {
	r := config.Request{Addresses: addrs("192.168.124.99", "fd00:124::99"), Link: "enp7s0"}
	require.EqualError(t, r.AddressError("is taken"), `annotation egress-ip.cni/address: "192.168.124.99,fd00:124::99": is taken`)
	require.EqualError(t, r.LinkError("is down"), `annotation egress-ip.cni/link: "enp7s0": is down`)
	requireAnnotation(t, r.AddressError("is taken"))
	requireAnnotation(t, r.LinkError("is down"))
}

func TestInvalidErrorKeepsItsCause(t *testing.T) {
	err := config.Validate([]byte("{"))

	require.Equal(t, errors.Unwrap(err).Error(), err.Error())
}

func TestCNIArgs(t *testing.T) {
	for name, tt := range map[string]struct{ args, namespace, pod string }{
		"none": {"", "", ""},
		"as containerd writes them": {
			"IgnoreUnknown=1;K8S_POD_NAMESPACE=payments;K8S_POD_NAME=till-0;K8S_POD_INFRA_CONTAINER_ID=c1;K8S_POD_UID=u1", "payments", "till-0",
		},
		"in another order": {
			"K8S_POD_UID=u1;K8S_POD_NAME=till-0;K8S_POD_INFRA_CONTAINER_ID=c1;K8S_POD_NAMESPACE=payments;IgnoreUnknown=1", "payments", "till-0",
		},
		"without IgnoreUnknown":       {"K8S_POD_UID=u1;K8S_POD_NAMESPACE=payments;FOO=bar", "payments", ""},
		"IgnoreUnknown is off":        {"IgnoreUnknown=0;FOO=bar;K8S_POD_NAMESPACE=payments", "payments", ""},
		"IgnoreUnknown is spelt out":  {"K8S_POD_NAME=till-0;IgnoreUnknown=true", "", "till-0"},
		"foreign keys alone":          {"FOO=bar;BAZ=", "", ""},
		"keys in another letter case": {"k8s_pod_namespace=payments", "", ""},
		"the namespace has no value":  {"K8S_POD_NAMESPACE=;K8S_POD_NAME=till-0", "", "till-0"},
	} {
		t.Run(name, func(t *testing.T) {
			_, r, err := parseCall(&skel.CmdArgs{Args: tt.args, StdinData: stdin(t, nil)})

			require.NoError(t, err)
			require.Equal(t, tt.namespace, r.PodNamespace)
			require.Equal(t, tt.pod, r.PodName)
		})
	}
}

func TestRefusedCNIArgs(t *testing.T) {
	for name, args := range map[string]string{
		"no pair":                 "K8S_POD_NAMESPACE",
		"two equals signs":        "K8S_POD_NAMESPACE=a=b",
		"an empty pair":           "K8S_POD_NAMESPACE=a;;K8S_POD_NAME=b",
		"IgnoreUnknown is a word": "IgnoreUnknown=maybe;K8S_POD_NAMESPACE=a",
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := parseCall(&skel.CmdArgs{Args: args, StdinData: stdin(t, nil)})

			requireInvalid(t, err, "CNI_ARGS", `"`+args+`"`)
		})
	}
}

func TestPrevResultOfEveryVersion(t *testing.T) {
	for _, version := range []string{"0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"} {
		t.Run(version, func(t *testing.T) {
			_, r, err := parse(stdin(t, object{
				"cniVersion": version,
				"prevResult": prevResult(version, "10.244.1.5/24", "fd00:244::5/64"),
			}))

			require.NoError(t, err)
			require.Equal(t, version, r.CNIVersion)
			require.Equal(t, addrs("10.244.1.5", "fd00:244::5"), r.PodAddresses)
			require.Equal(t, version, r.PrevResult.Version(), "ADD hands on what it was given")
			if version < "1" {
				require.IsType(t, &types040.Result{}, r.PrevResult)
			} else {
				require.IsType(t, &types100.Result{}, r.PrevResult)
			}
		})
	}
}

func TestPodAddresses(t *testing.T) {
	interfaces := `"interfaces":[{"name":"cni0"},{"name":"eth0","sandbox":"/run/netns/pod"},{"name":"veth1"}]`
	for name, tt := range map[string]struct {
		result string
		want   []string
	}{
		"none": {`"interfaces":[]`, nil},
		"the node's ends are skipped": {
			interfaces + `,"ips":[{"address":"10.244.1.1/24","interface":0},{"address":"10.244.1.5/24","interface":1},{"address":"10.244.1.2/24","interface":2}]`,
			[]string{"10.244.1.5"},
		},
		"no interface index": {interfaces + `,"ips":[{"address":"10.244.1.5/24"}]`, []string{"10.244.1.5"}},
		"no interfaces":      {`"ips":[{"address":"10.244.1.5/24"},{"address":"fd00:244::5/64"}]`, []string{"10.244.1.5", "fd00:244::5"}},
		"several a family, in their order": {
			`"ips":[{"address":"10.244.1.6/24"},{"address":"10.244.1.5/32"},{"address":"fd00:244::5/64"}]`,
			[]string{"10.244.1.6", "10.244.1.5", "fd00:244::5"},
		},
		"one twice": {`"ips":[{"address":"10.244.1.5/24"},{"address":"10.244.1.5/32"}]`, []string{"10.244.1.5"}},
		"what no pod opens connections with": {
			`"ips":[{"address":"fe80::1/64"},{"address":"169.254.1.1/16"},{"address":"0.0.0.0/0"},{"address":"224.0.0.1/32"},{"address":"10.244.1.5/24"}]`,
			[]string{"10.244.1.5"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, r, err := parse(stdin(t, object{"prevResult": raw(`{"cniVersion":"1.0.0",` + tt.result + `}`)}))

			require.NoError(t, err)
			require.Equal(t, addrs(tt.want...), r.PodAddresses)
		})
	}
}

func TestRefusedPrevResult(t *testing.T) {
	eth0 := `"interfaces":[{"name":"eth0","sandbox":"/run/netns/pod"}]`
	for name, tt := range map[string]struct {
		version, result string
		want            []string
	}{
		"null":                       {"1.0.0", `null`, []string{"no prevResult", "plugins"}},
		"a list":                     {"1.0.0", `[]`, []string{"prevResult"}},
		"an interface out of range":  {"1.0.0", `{"cniVersion":"1.0.0",` + eth0 + `,"ips":[{"address":"10.244.1.5/24","interface":1}]}`, []string{"ips[0]", "interface 1", "there are 1"}},
		"a negative interface":       {"1.0.0", `{"cniVersion":"1.0.0",` + eth0 + `,"ips":[{"address":"10.244.1.5/24","interface":-1}]}`, []string{"ips[0]", "interface -1"}},
		"an interface, but no list":  {"1.0.0", `{"cniVersion":"1.0.0","ips":[{"address":"10.244.1.5/24","interface":0}]}`, []string{"ips[0]", "interface 0", "there are 0"}},
		"ip without an address":      {"1.0.0", `{"cniVersion":"1.0.0","ips":[{"address":"10.244.1.5/24"},{}]}`, []string{"ips[1]", "no address"}},
		"ip is null":                 {"1.0.0", `{"cniVersion":"1.0.0","ips":[null]}`, []string{"ips", "null"}},
		"ip is null, 0.3.1":          {"0.3.1", `{"cniVersion":"0.3.1","ips":[null]}`, []string{"ips", "null"}},
		"interface is null":          {"1.0.0", `{"cniVersion":"1.0.0","interfaces":[null],"ips":[{"address":"10.244.1.5/24","interface":0}]}`, []string{"interfaces", "null"}},
		"interface is null, 0.4.0":   {"0.4.0", `{"cniVersion":"0.4.0","interfaces":[null]}`, []string{"interfaces", "null"}},
		"route is null":              {"1.0.0", `{"cniVersion":"1.0.0","routes":[null]}`, []string{"routes", "null"}},
		"an address without a CIDR":  {"1.0.0", `{"cniVersion":"1.0.0","ips":[{"address":"10.244.1.5"}]}`, []string{"prevResult", "10.244.1.5"}},
		"a version that none speaks": {"9.9.9", `{"cniVersion":"9.9.9"}`, []string{"prevResult", `"9.9.9"`}},
		"a version before the list":  {"1.0.0", `{"cniVersion":"0.4.0"}`, []string{"prevResult", `"0.4.0"`}},
	} {
		t.Run(name, func(t *testing.T) {
			_, r, err := parse(stdin(t, object{"cniVersion": tt.version, "prevResult": raw(tt.result)}))

			requireInvalid(t, err, tt.want...)
			require.Zero(t, r)
		})
	}
	t.Run("none", func(t *testing.T) {
		_, _, err := parse([]byte(example))

		requireInvalid(t, err, "no prevResult", "after the plugin")
		require.NoError(t, config.Validate([]byte(example)))
	})
}

func requireAnnotation(t *testing.T, err error) *config.AnnotationError {
	t.Helper()
	var annotation *config.AnnotationError
	require.ErrorAs(t, err, &annotation)
	var invalid *config.InvalidError
	require.NotErrorAs(t, err, &invalid)
	return annotation
}
