// Package conflist puts egress-ip's entry into a CNI configuration list and takes
// it out again, in the text: other plugins and keys stay as they are written. It knows
// no files; package install does.
package conflist
