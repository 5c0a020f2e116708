// Package nettest builds small networks out of network namespaces, for tests, benchmarks and the demo: a node with its
// uplinks, a router, a server that says which source address it saw, pods, and a capture of what passes a link.
//
// It needs root and nothing else: no ip, no nft, no CNI plugin. Everything happens inside namespaces of its own, so
// many networks can stand at the same time and the host's own namespace is left alone.
//
// Addresses that a caller writes down are text ("192.0.2.1", "192.0.2.1/24"); addresses that are found out are netip.
package nettest

// T is what a test or the demo hands in; *testing.T and *testing.B satisfy it.
//
// Fatalf must not return. Cleanup functions run in the reverse order of their registration.
type T interface {
	Helper()
	Fatalf(format string, args ...any)
	Logf(format string, args ...any)
	Cleanup(func())
}
