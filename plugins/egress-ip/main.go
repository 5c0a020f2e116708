// egress-ip is a chained CNI plugin: it makes annotated pods leave the node by a
// chosen link with a chosen source address, and keeps the nftables table that
// lets IPv6 load-balancer probes with a link-local source reach pods.
//
// Called by a runtime (CNI_COMMAND is set) it speaks CNI. Called by a person it
// is a small command. See README.md.
package main

import (
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	cniversion "github.com/containernetworking/cni/pkg/version"
	"golang.org/x/sys/unix"

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

// maxStdin is far above any configuration: Kubernetes lets the annotations of a
// pod be 256 KiB in all, and a prevResult is a few.
const maxStdin = 1 << 20

// delConfig is all the configuration that DEL needs.
const delConfig = `{"cniVersion":"1.1.0","name":"egress-ip","type":"egress-ip"}`

// cni serves one verb. It comes between the runtime and skel in two places.
// Stdin is bounded. And DEL works from the record alone, so whatever is wrong with
// the configuration, or with a namespace that has gone, must not keep a pod from
// being deleted.
func cni(command string) *types.Error {
	var stdin []byte
	var err error
	netns := os.Getenv("CNI_NETNS")
	switch command {
	case "VERSION":
	case "DEL":
		stdin = []byte(delConfig)
		os.Unsetenv("CNI_NETNS") // skel would fail for one that has gone
	default:
		stdin, err = io.ReadAll(io.LimitReader(os.Stdin, maxStdin+1))
		if err != nil {
			return types.NewError(types.ErrIOFailure, "read the network configuration from stdin: "+err.Error(), "")
		}
		if len(stdin) > maxStdin {
			return types.NewError(types.ErrDecodingFailure, fmt.Sprintf("the network configuration on stdin is longer than %d bytes", maxStdin), "")
		}
		if len(stdin) == 0 {
			return types.NewError(types.ErrDecodingFailure, "no network configuration on stdin", "")
		}
	}
	if os.Stdin, err = asFile(stdin); err != nil {
		return types.NewError(types.ErrIOFailure, err.Error(), "")
	}
	verbs := skel.CNIFuncs{Add: add, Check: check, GC: gc, Status: statusVerb} // skel itself serves VERSION
	verbs.Del = func(args *skel.CmdArgs) error { return del(args, netns) }
	return skel.PluginMainFuncsWithError(verbs, supported, "")
}

// asFile returns a file that has this, in memory, and is to be read from its beginning.
func asFile(data []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate("stdin", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make a file in memory: %w", err)
	}
	f := os.NewFile(uintptr(fd), "stdin")
	if _, err := f.WriteAt(data, 0); err != nil {
		return nil, fmt.Errorf("write a file in memory: %w", err)
	}
	return f, nil
}
