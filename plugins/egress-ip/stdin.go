package main

import (
	"fmt"
	"io"
	"os"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
)

// maxStdin is far above any configuration: Kubernetes lets the annotations of a
// pod be 256 KiB in all, and a prevResult is a few.
const maxStdin = 1 << 20

// delConfig is all the configuration that DEL needs.
const delConfig = `{"cniVersion":"1.1.0","name":"egress-ip","type":"egress-ip"}`

// cni serves one verb. It stands between the runtime and skel in two places.
// Stdin is bounded. And DEL works from the record alone, so whatever is wrong with
// the configuration, or with a namespace that has gone, must not keep a pod from
// being deleted.
func cni(command string) *types.Error {
	var stdin []byte
	switch command {
	case "VERSION":
	case "DEL":
		stdin = []byte(delConfig)
		os.Unsetenv("CNI_NETNS")
	default:
		var err error
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
	r, w, err := os.Pipe()
	if err != nil {
		return types.NewError(types.ErrIOFailure, "make a pipe: "+err.Error(), "")
	}
	go func() {
		_, _ = w.Write(stdin) // skel reads to the end, or says itself what is wrong
		w.Close()
	}()
	os.Stdin = r
	return skel.PluginMainFuncsWithError(funcs, supported, "")
}
