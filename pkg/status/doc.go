// Package status is what `egress-ip status` shows: one value that says what is
// recorded, what of it the kernel lacks, and what the kernel has beside it; and
// the value as text for people, as JSON and as Prometheus metrics.
//
// Whoever fills a [Status] passes it through [New]. Nothing here does I/O beyond
// writing to the given writer, which gets everything in one write, or nothing.
package status
