// Package node does what the CNI verbs and the commands ask for, on the node
// that the process runs on: it reads (packages kernel and record), lets package
// egress decide, and writes in the order in which nothing is lost when the
// process is killed between two steps. ADD: record, routes, address, translation,
// source rule. DEL: the other way round.
package node
