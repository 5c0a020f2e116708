// Package kernel carries the values of package egress to and from rtnetlink,
// nf_tables and conntrack, in the network namespace of the calling thread. One
// file is about one kind of object. Writing what is already so, or deleting what
// is not there, is no error and no write.
package kernel
