// Package install puts egress-ip on a node and takes it off: the binary into the
// directory where runtimes look for plugins, the entry into their configuration list.
// Every file is replaced in one step, so that whoever reads one at any time finds
// it whole, as before or as after. What a list looks like is package conflist's.
package install
