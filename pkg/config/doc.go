// Package config turns what a runtime hands to a plugin (stdin, CNI_ARGS and,
// inside stdin, the pod's annotations) into a validated [Config] and [Request].
// It is pure: what only the node can tell is decided in package egress.
package config
