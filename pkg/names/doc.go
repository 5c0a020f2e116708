// Package names gives the routing tables of egress-ip names that iproute2 shows
// and takes: `lookup egress-enp7s0`, `ip route show table egress-enp7s0`. It keeps
// one file true, /etc/iproute2/rt_tables.d/egress-ip.conf:
//
//	# Written by egress-ip for its links; do not edit.
//	1134 egress-enp7s0
//
// Names are a courtesy to people: where the file cannot be written nothing else
// changes. Unlike what the kernel and /run have, it outlives a reboot; the next
// call makes it true again.
package names
