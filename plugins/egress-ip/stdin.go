package main

import (
	"fmt"
	"io"
	"os"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	"golang.org/x/sys/unix"
)

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
