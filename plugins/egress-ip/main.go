// egress-ip is a chained CNI plugin: it makes annotated pods leave the node by a
// chosen link with a chosen source address, and keeps the nftables table that
// lets IPv6 load-balancer probes with a link-local source reach pods.
//
// Called by a runtime (CNI_COMMAND is set) it speaks CNI. Called by a person it
// is a small command. See README.md.
package main

import (
	"fmt"
	"log/slog"
	"os"

	cniversion "github.com/containernetworking/cni/pkg/version"

	_ "github.com/egress-ip/egress-ip/plugins/egress-ip/oneprocessor"
)

// Set by the Makefile: what git describe says, the commit's full name, and when it was
// committed, 2026-11-20T12:00:00Z. The last two are empty where there is no git.
var version, commit, commitDate = "dev", "", ""

// supported begins with 0.3.0, which Azure CNI still writes into its conflists.
var supported = cniversion.PluginSupports("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")

func main() {
	slog.SetDefault(slog.New(slog.NewTextHandler(os.Stderr, nil)))
	command := os.Getenv("CNI_COMMAND")
	if len(os.Args) > 1 || command == "" {
		os.Exit(cli(os.Args[1:]))
	}
	if err := cni(command); err != nil {
		if err := err.Print(); err != nil {
			fmt.Fprintln(os.Stderr, "egress-ip: write the error to stdout:", err)
		}
		os.Exit(1)
	}
}
