// Noop is what every chained CNI plugin has to do at least: it reads its
// configuration and passes the result of the plugin before it on.
package main

import (
	"encoding/json"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"
)

func main() {
	skel.PluginMainFuncs(skel.CNIFuncs{Add: add, Check: nothing, Del: nothing, GC: nothing, Status: nothing}, version.All, "noop")
}

func add(args *skel.CmdArgs) error {
	var c types.PluginConf
	if err := json.Unmarshal(args.StdinData, &c); err != nil {
		return err
	}
	if err := version.ParsePrevResult(&c); err != nil {
		return err
	}
	return types.PrintResult(c.PrevResult, c.CNIVersion)
}

func nothing(*skel.CmdArgs) error { return nil }
