package config_test

import (
	"testing"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/egress-ip/egress-ip/pkg/config"
	"github.com/stretchr/testify/require"
)

// applied returns the request of a pod without annotations in a namespace, by an entry with these defaults.
func applied(t *testing.T, namespace string, defaults any, more object) (config.Request, error) {
	t.Helper()
	entry := object{"prevResult": prevResult("1.0.0", "10.244.1.5/24"), "defaults": defaults}
	for k, v := range more {
		entry[k] = v
	}
	args := &skel.CmdArgs{ContainerID: "0123abc", IfName: "eth0", StdinData: stdin(t, entry)}
	if namespace != "" {
		args.Args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=" + namespace + ";K8S_POD_NAME=till-0"
	}
	r, err := config.ParseRequest(args)
	require.NoError(t, err)
	return r, r.ApplyDefaults(args.StdinData, args.Args)
}

// TestFirstDefault: the first element with a matching namespace applies, and no other.
func TestFirstDefault(t *testing.T) {
	t.Parallel()
	defaults := []object{
		{"namespaces": []string{"team-build"}},
		{"namespaces": []string{"payments", "team-*"}, "address": "192.168.124.99, fd00:124::99"},
		{"namespaces": []string{"pay*"}, "address": "192.168.124.98", "link": "enp8s0"},
		{"namespaces": []string{"*"}, "link": "enp7s0"},
	}
	for namespace, want := range map[string]config.Request{
		"team-build": {Origin: "defaults[0]"},
		"payments":   {Origin: "defaults[1]", Addresses: addrs("192.168.124.99", "fd00:124::99")},
		"team-a":     {Origin: "defaults[1]", Addresses: addrs("192.168.124.99", "fd00:124::99")},
		"payroll":    {Origin: "defaults[2]", Addresses: addrs("192.168.124.98"), Link: "enp8s0"},
		"other":      {Origin: "defaults[3]", Link: "enp7s0"},
		"":           {Origin: "defaults[3]", Link: "enp7s0"},
	} {
		r, err := applied(t, namespace, defaults, nil)
		require.NoError(t, err, namespace)
		require.Equal(t, want, config.Request{Origin: r.Origin, Addresses: r.Addresses, Link: r.Link}, namespace)
	}
	r, err := applied(t, "payments", nil, nil)
	require.NoError(t, err)
	require.False(t, r.Annotated())
	r, err = applied(t, "", []object{{"namespaces": []string{"payments", "[a-z]*"}, "link": "enp7s0"}}, nil)
	require.NoError(t, err)
	require.False(t, r.Annotated(), "no namespace is known")
}

// TestDefaultsAsFarAsTheyCanBeRead: whatever else is wrong with the entry, an element selects its namespaces.
func TestDefaultsAsFarAsTheyCanBeRead(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		defaults  any
		more      object
		annotated bool
		problem   string
	}{
		"another key unknown":           {[]object{{"namespaces": []string{"payments"}, "link": "enp7s0"}}, object{"lnks": 1}, true, ""},
		"another element mistaken":      {[]object{{"namespaces": 5}, {"namespaces": []string{"payments"}, "link": "enp7s0"}}, nil, true, ""},
		"an unknown key beside it":      {[]object{{"namespaces": []string{"payments"}, "link": "enp7s0", "ad": 1}}, nil, true, ""},
		"its address of another type":   {[]object{{"namespaces": []string{"payments"}, "address": 5}}, nil, false, "defaults[0]"},
		"its address no address":        {[]object{{}, {"namespaces": []string{"payments"}, "address": "192.168.124"}}, nil, false, `defaults[1].address: "192.168.124"`},
		"its address of another family": {[]object{{"namespaces": []string{"payments"}, "address": "fd00::1"}}, nil, false, `defaults[0].address: "fd00::1": the pod has no address of that family`},
		"its link empty":                {[]object{{"namespaces": []string{"payments"}, "link": ""}}, nil, false, `defaults[0].link: ""`},
		"of another type":               {object{"namespaces": []string{"payments"}, "link": "enp7s0"}, nil, false, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, err := applied(t, "payments", tt.defaults, tt.more)
			if tt.problem != "" {
				require.ErrorContains(t, err, tt.problem)
				return
			}
			require.NoError(t, err)
			require.Equal(t, tt.annotated, r.Annotated())
		})
	}
}

// TestInvalidDefaults: what is wrong with defaults is said of the whole entry, too.
func TestInvalidDefaults(t *testing.T) {
	t.Parallel()
	for problem, defaults := range map[string]any{
		"defaults[0].namespaces is empty":                  []object{{"address": "192.168.124.99"}},
		`defaults[1].namespaces[0]: "[" is no glob`:        []object{{"namespaces": []string{"a"}}, {"namespaces": []string{"["}}},
		`defaults[0].address: "192.168.124.0/24"`:          []object{{"namespaces": []string{"a"}, "address": "192.168.124.0/24"}},
		`defaults[0].link: ""`:                             []object{{"namespaces": []string{"a"}, "link": ""}},
		`unknown key "defaults[0].adress"; the keys there`: []object{{"namespaces": []string{"a"}, "adress": "192.168.124.99"}},
		"defaults: an object must be a list":               object{},
	} {
		_, err := config.ParseEntry(stdin(t, object{"defaults": defaults}))
		require.ErrorContains(t, err, problem)
	}
	c, err := config.ParseEntry(stdin(t, object{"defaults": []object{{"namespaces": []string{"a"}, "address": "192.168.124.99"}}}))
	require.NoError(t, err)
	require.Len(t, c.Defaults, 1)
}
