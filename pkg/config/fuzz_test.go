package config_test

import (
	"errors"
	"math/bits"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/egress-ip/egress-ip/pkg/config"
	"github.com/stretchr/testify/require"
)

// FuzzConfig: no stdin makes Parse panic, and what it lets through is within
// the bounds that the documentation names.
func FuzzConfig(f *testing.F) {
	f.Add([]byte(example))
	f.Fuzz(func(t *testing.T, stdin []byte) {
		_ = config.MissesCapability(stdin)
		invalid := config.Validate(stdin)
		c, r, err := parse(stdin)
		if err != nil {
			requireMessage(t, err)
		}
		if r.PrevResult != nil {
			requireRequest(t, r) // also where the entry has a mistake
			// ADD hands it on; it may be beyond that version, but not beyond the library.
			_, _ = r.PrevResult.GetAsVersion(r.CNIVersion)
		}
		if err != nil {
			return
		}
		require.NoError(t, invalid)
		requireBounds(t, c)
	})
}

// FuzzAnnotations: what a pod's author writes is taken as written, or refused
// with a message that names the annotation.
func FuzzAnnotations(f *testing.F) {
	f.Fuzz(func(t *testing.T, address, link string) {
		_, r, err := parse(stdin(t, object{
			"runtimeConfig": annotations(map[string]string{"egress-ip.cni/address": address, "egress-ip.cni/link": link}),
		}))
		if err != nil {
			requireMessage(t, err)
			requireAnnotation(t, err)
			return
		}
		requireRequest(t, r)
		require.True(t, utf8.ValidString(address), "no address is written so")
		var want []netip.Addr
		for _, s := range strings.Split(address, ",") {
			want = append(want, netip.MustParseAddr(strings.TrimSpace(s)))
		}
		require.Equal(t, want, r.Addresses)
		require.NotEmpty(t, r.Link)
		if utf8.ValidString(link) {
			require.Equal(t, link, r.Link)
		}
	})
}

func requireMessage(t *testing.T, err error) {
	t.Helper()
	require.NotEmpty(t, err.Error())
	var annotation *config.AnnotationError
	if errors.As(err, &annotation) {
		require.NotEmpty(t, annotation.Problem)
		require.True(t, strings.HasPrefix(strings.ToLower(annotation.Annotation), "egress-ip.cni/"))
		require.Contains(t, err.Error(), annotation.Annotation)
		return
	}
	requireInvalid(t, err)
}

func requireBounds(t *testing.T, c config.Config) {
	t.Helper()
	require.True(t, 3 <= c.RulePriority && c.RulePriority <= 32765)
	require.True(t, 256 <= c.TableBase && c.TableBase <= 1<<31-1)
	require.GreaterOrEqual(t, bits.OnesCount32(c.MarkMask), 2)
	require.Equal(t, 32, bits.LeadingZeros32(c.MarkMask)+bits.OnesCount32(c.MarkMask)+bits.TrailingZeros32(c.MarkMask), "one run")
	require.Zero(t, c.MarkMask&0xe000)
	for _, p := range c.ClusterCIDRs {
		requirePrefix(t, p)
		require.NotZero(t, p.Bits())
	}
	for _, l := range c.Links {
		families := map[bool]int{}
		for _, g := range l.Gateways {
			require.True(t, (g.IsGlobalUnicast() || g.IsLinkLocalUnicast()) && g.Zone() == "" && !g.Is4In6())
			families[g.Is4()]++
		}
		require.LessOrEqual(t, families[true], 1)
		require.LessOrEqual(t, families[false], 1)
		l.Matches("enp7s0")
		for _, a := range l.Allow {
			require.NotEmpty(t, a.Namespaces)
			require.NotContains(t, a.Namespaces, "")
			if a.MatchesNamespace("") {
				require.Contains(t, a.Namespaces, "*")
			}
			for _, p := range a.Addresses {
				requirePrefix(t, p)
			}
		}
	}
	require.Contains(t, []config.ProbeMode{config.ProbeAuto, config.ProbeAlways, config.ProbeNever}, c.Probe.Mode)
	require.True(t, c.Probe.Source.Is6() && c.Probe.Source.IsLinkLocalUnicast() && c.Probe.Source.Zone() == "")
	require.True(t, c.Probe.Translated.Is6() && c.Probe.Translated.IsGlobalUnicast() && !c.Probe.Translated.Is4In6())
	require.True(t, slices.IsSorted(c.Probe.Links))
	for i, l := range c.Probe.Links {
		require.True(t, 1 <= len(l) && len(l) <= 15)
		require.False(t, i > 0 && c.Probe.Links[i-1] == l, "twice")
	}
}

func requirePrefix(t *testing.T, p netip.Prefix) {
	t.Helper()
	require.True(t, p.IsValid())
	require.Equal(t, p.Masked(), p)
	require.False(t, p.Addr().Is4In6())
}

func requireRequest(t *testing.T, r config.Request) {
	t.Helper()
	require.NotNil(t, r.PrevResult)
	families := map[bool]int{}
	for _, a := range r.Addresses {
		require.True(t, a.IsGlobalUnicast() && a.Zone() == "" && !a.Is4In6())
		families[a.Is4()]++
	}
	require.LessOrEqual(t, families[true], 1)
	require.LessOrEqual(t, families[false], 1)
	for i, a := range r.PodAddresses {
		require.True(t, a.IsValid() && !a.Is4In6() && !a.IsUnspecified() && !a.IsLinkLocalUnicast() && !a.IsMulticast())
		require.NotContains(t, r.PodAddresses[:i], a)
	}
	if r.Annotated() {
		require.NotEmpty(t, r.PodAddresses)
	}
	if len(r.Addresses) > 0 {
		require.True(t, slices.ContainsFunc(r.Addresses, func(a netip.Addr) bool {
			return slices.ContainsFunc(r.PodAddresses, func(p netip.Addr) bool { return p.Is4() == a.Is4() })
		}), "one applies")
	}
}
