// Package conflist puts egress-ip's entry into a CNI configuration list and takes
// it out again, in the text: what is not the entry stays as it is, byte for byte,
// unknown keys, order, numbers as written and indentation included. It knows no
// files; package install does.
package conflist
