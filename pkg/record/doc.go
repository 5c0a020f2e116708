// Package record keeps, below [Root], /run/egress-ip, what is to exist on the node. It
// is gone with a reboot, as what the kernel has is. One directory per network
// namespace, named by its cookie (a test machine has several):
//
//	attachments/CONTAINER:IFNAME.json          an egress.Attachment
//	attachments/CONTAINER:IFNAME.json.damaged  a damaged one, set aside
//	copies                                     of the attachments, to read them at once
//	tables/TABLE-FAMILY.json                   an egress.Table
//	cluster.json                               the networks in the cluster sets
//	probe.json                                 a [Probe]; it stays when pods go
//	marked.json                                links of which egress-ip has set the sysctl src_valid_mark
//	src_valid_mark                             exists if an earlier version has set it for all links
//
// What attachments share, and who has a pod address, is asked of the attachments
// themselves. The copies make that quick, and decide nothing: see [Store.Records].
//
// Each file has a version, [Version]. A reader takes what it knows of a file of any
// version, also of none: so wrote the versions before. Writers hold [Store.Lock]. A file
// appears whole or not at all.
package record

// Version is that of the files that are written. Whoever changes what a key means gives
// it another name: an older egress-ip takes what it knows, whatever the version is.
const Version = 1
