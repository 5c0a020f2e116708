// Package watch is `egress-ip resync --watch`: it resyncs at once, and again
// whenever something has changed that may matter, and is idle in between. It
// knows when to look; what to look at and how to put it right is package node's,
// and what tells of changes is package kernel's. It does the same for
// `egress-ip install --watch` and package install.
package watch
