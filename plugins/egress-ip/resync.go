package main

import (
	"fmt"
	"os"
	"runtime/debug"

	"github.com/egress-ip/egress-ip/pkg/node"
)

func resyncCommand(args []string) int {
	// The process ends before there is garbage worth collecting.
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(256 << 20)
	n, err := node.Open()
	if err != nil {
		fmt.Fprintln(os.Stderr, "egress-ip resync:", err)
		return 2
	}
	defer n.Close()
	changed, err := n.Resync()
	for _, c := range changed {
		fmt.Println(c)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "egress-ip resync:", err)
		return 1
	}
	if len(changed) == 0 {
		fmt.Println("nothing to do")
	}
	return 0
}
