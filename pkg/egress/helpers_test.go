package egress_test

import (
	"net/netip"
	"testing"

	"github.com/egress-ip/egress-ip/pkg/config"
	"github.com/stretchr/testify/require"
)

func addr(s string) netip.Addr     { return netip.MustParseAddr(s) }
func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func addrs(list ...string) []netip.Addr {
	var a []netip.Addr
	for _, s := range list {
		a = append(a, addr(s))
	}
	return a
}

func prefixes(list ...string) []netip.Prefix {
	var p []netip.Prefix
	for _, s := range list {
		p = append(p, prefix(s))
	}
	return p
}

// requireAnnotation wants an error for the pod's event, about this annotation.
func requireAnnotation(t *testing.T, err error, annotation, value string, wants ...string) {
	t.Helper()
	var e *config.AnnotationError
	require.ErrorAs(t, err, &e)
	require.Equal(t, annotation, e.Annotation)
	require.Equal(t, value, e.Value)
	for _, want := range wants {
		require.Contains(t, e.Problem, want)
	}
}
