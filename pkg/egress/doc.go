// Package egress says what should stand on a node, as plain comparable values.
//
// A request (package config) and what the kernel has (package kernel) go in;
// an [Attachment] and its [State] come out. Nothing here does I/O: ADD applies
// the state, CHECK subtracts what it reads from it, DEL deletes the recorded one.
package egress
