package egress_test

import (
	"fmt"
	"testing"

	"github.com/egress-ip/egress-ip/pkg/egress"
	"github.com/stretchr/testify/require"
)

// TestShape: one attachment speaks for others that need the same beside what is their own, and
// for no other.
func TestShape(t *testing.T) {
	t.Parallel()
	shape := func(a egress.Attachment) string {
		text, err := a.Shape()
		require.NoError(t, err)
		return text
	}
	first, second := twoPods()[0], twoPods()[1]
	second.Counters = false
	for i := range second.Flows {
		second.Flows[i].MAC = ""
	}
	require.Equal(t, shape(first), shape(second))
	for name, change := range map[string]func(a *egress.Attachment){
		"address": func(a *egress.Attachment) { a.Flows[0].Address = addr("192.168.124.98") },
		"link":    func(a *egress.Attachment) { a.Flows[0].Index++ },
		"table":   func(a *egress.Attachment) { a.Flows[0].Table++ },
		"bridge":  func(a *egress.Attachment) { a.Flows[0].MAC = "02:00:00:00:00:05" },
		"nowhere": func(a *egress.Attachment) { a.Flows[0].In = 0 },
		"VRF":     func(a *egress.Attachment) { a.Flows[0].VRFRule = 1000 },
		"family":  func(a *egress.Attachment) { a.Flows = a.Flows[:1] },
		"cluster": func(a *egress.Attachment) { a.ClusterCIDRs = a.ClusterCIDRs[:1] },
		"rules":   func(a *egress.Attachment) { a.RulePriority++ },
	} {
		t.Run(name, func(t *testing.T) {
			changed := twoPods()[0]
			change(&changed)
			require.NotEqual(t, shape(first), shape(changed))
		})
	}
}

func TestNamed(t *testing.T) {
	t.Parallel()
	attachment := func(id, namespace, name string, pods ...string) egress.Attachment {
		a := egress.Attachment{Owner: egress.Owner{ContainerID: id, IfName: "eth0"}, PodNamespace: namespace, PodName: name}
		for _, p := range pods {
			a.Flows = append(a.Flows, egress.Flow{Pod: addr(p)})
		}
		return a
	}
	shop := attachment("0123456789ab", "payments", "shop", "10.244.1.5", "fd00:10:244::5")
	second := attachment("0123456789ab", "payments", "shop", "10.245.1.5")
	second.IfName = "net1"
	till := attachment("0123456799ab", "payments", "till", "10.244.1.6")
	again := attachment("fedcba9876543210", "payments", "till", "10.244.1.7")
	whole := attachment("fedcba98", "payments", "bank", "10.244.1.9")
	short := attachment("0123", "", "", "10.244.1.8")
	all := []egress.Attachment{shop, second, till, again, whole, short}
	for name, tt := range map[string]struct {
		want  []egress.Attachment
		error []string
	}{
		"payments/shop":     {[]egress.Attachment{shop, second}, nil},
		"10.244.1.5":        {[]egress.Attachment{shop}, nil},
		"fd00:10:244:0::5":  {[]egress.Attachment{shop}, nil},
		"::ffff:10.244.1.5": {[]egress.Attachment{shop}, nil},
		"0123456789ab":      {[]egress.Attachment{shop, second}, nil},
		"012345678":         {[]egress.Attachment{shop, second}, nil},
		"fedcba987":         {[]egress.Attachment{again}, nil},
		"fedcba98":          {[]egress.Attachment{whole}, nil}, // and the beginning of another
		"0123":              {[]egress.Attachment{short}, nil}, // a whole one may be short
		"fedcba9":           {nil, []string{`"fedcba9"`, "payments/shop 10.244.1.5 fd00:10:244::5 (container 0123456789ab)", "10.244.1.8 (container 0123)"}},
		"payments/till":     {nil, []string{"payments/till 10.244.1.6 (container 0123456799ab), payments/till 10.244.1.7 (container fedcba9876543210)", "by its container ID"}},
		"01234567":          {nil, []string{"may mean each of these", "(container 0123456789ab)", "(container 0123456799ab)"}},
		"shop":              {nil, []string{`no pod with egress is "shop"`}},
		"payments/shop/":    {nil, []string{"payments/shop/"}},
		"10.244.1.99":       {nil, []string{"10.244.1.99"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			found, err := egress.Named(all, name)
			require.Equal(t, tt.want, found)
			require.Equal(t, tt.error == nil, err == nil)
			for _, says := range tt.error {
				require.ErrorContains(t, err, says)
			}
		})
	}
	_, err := egress.Named(nil, "payments/shop")
	require.ErrorContains(t, err, "no pod on this node has egress")

	var many []egress.Attachment
	for i := range 30 {
		many = append(many, attachment(fmt.Sprint("container", i), "payments", "shop", "10.244.1.5"))
	}
	_, err = egress.Named(many, "nobody/here")
	require.ErrorContains(t, err, "container9), 20 more")
	require.NotContains(t, err.Error(), "container10)")
}
