// image packs static binaries into a container image, an image a binary, that has nothing
// else in it, and writes it as an archive of an OCI layout, for ctr, nerdctl or podman
// to load and skopeo to push.
//
//	image -name localhost/egress-ip:v1.2.3 -commit 0123abc -date 2026-11-20T12:00:00Z -o image.tar BINARY...
//
// For which platform a binary is, it says itself. The same binaries make the same bytes.
package main

import (
	"flag"
	"fmt"
	"os"
)

// Binary is where the image has it; it is the entry point.
const Binary = "/egress-ip"

func main() {
	var i image
	flag.StringVar(&i.name, "name", "", "`name:tag` under which the image is loaded")
	flag.StringVar(&i.commit, "commit", "", "the sources' `commit`, for the image's labels")
	flag.StringVar(&i.date, "date", "", "when that was made, in RFC 3339; left out, the image is of 1970")
	out := flag.String("o", "", "the `file` to write")
	flag.Parse()
	if flag.NArg() == 0 || i.name == "" || *out == "" {
		flag.Usage()
		os.Exit(2)
	}
	if err := i.write(*out, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}
