// Package record keeps, below [Root], /run/egress-ip, what should stand on the node. It
// is gone with a reboot, as what the kernel has is. One folder a network
// namespace, named by its cookie (a test machine has several):
//
//	attachments/CONTAINER:IFNAME.json  an egress.Attachment
//	pods/ADDRESS                       link to the attachment that has the pod address
//	shared/OBJECT/CONTAINER:IFNAME     link to an attachment that needs a shared object
//	tables/TABLE-FAMILY.json           an egress.Table
//	cluster.json                       the networks in the cluster sets
//	probe.json                         a [Probe]; it stays when pods go
//	marked.json                        links of which egress-ip has set the sysctl src_valid_mark
//	src_valid_mark                     exists if an earlier version has set it for all links
//
// The folders beside attachments make each question of ADD and DEL (who has this
// address? does anyone else need this table?) one look, however many pods there
// are. Writers hold [Lock]. A file appears whole or not at all.
package record
