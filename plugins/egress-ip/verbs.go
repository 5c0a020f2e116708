package main

import (
	"encoding/json"
	"fmt"
	"log/slog"

	"github.com/containernetworking/cni/pkg/ns"
	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/egress-ip/egress-ip/pkg/config"
	"github.com/egress-ip/egress-ip/pkg/egress"
	"github.com/egress-ip/egress-ip/pkg/node"
)

func add(args *skel.CmdArgs) error {
	c, r, err := config.Parse(args)
	if err != nil {
		return cniError(err)
	}
	// skel looks at this too, but only after ADD has done its work.
	if same, err := ns.CheckNetNS(args.Netns); err != nil {
		return err
	} else if same {
		return types.NewError(types.ErrInvalidNetNS, fmt.Sprintf("CNI_NETNS %s is the node's own network namespace", args.Netns), "")
	}
	if config.MissesCapability(args.StdinData) && !r.Annotated() {
		slog.Warn(`links are configured, but "capabilities": {"io.kubernetes.cri.pod-annotations": true} is missing, so no annotation arrives`)
	}
	n, err := node.Open()
	if err != nil {
		return cniError(err)
	}
	defer n.Close()
	if err := n.Attach(c, r); err != nil {
		return cniError(err)
	}
	return types.PrintResult(r.PrevResult, c.CNIVersion)
}

func check(args *skel.CmdArgs) error {
	_, r, err := config.Parse(args)
	if err != nil {
		return cniError(err)
	}
	if !r.Annotated() {
		return nil
	}
	n, err := node.Open()
	if err != nil {
		return cniError(err)
	}
	defer n.Close()
	return cniError(n.Check(r))
}

func del(args *skel.CmdArgs) error {
	owner := egress.Owner{ContainerID: args.ContainerID, IfName: args.IfName}
	recorded, err := node.Recorded(owner)
	if err != nil || !recorded {
		return cniError(err)
	}
	n, err := node.Open()
	if err != nil {
		return cniError(err)
	}
	defer n.Close()
	return cniError(n.Detach(owner))
}

func gc(args *skel.CmdArgs) error {
	var c types.PluginConf
	if err := json.Unmarshal(args.StdinData, &c); err != nil {
		return types.NewError(types.ErrDecodingFailure, "network configuration: "+err.Error(), "")
	}
	if c.ValidAttachments == nil {
		return nil // a runtime that lists none has not said that none is valid
	}
	var valid []egress.Owner
	for _, a := range c.ValidAttachments {
		valid = append(valid, egress.Owner{ContainerID: a.ContainerID, IfName: a.IfName})
	}
	return cniError(node.Collect(c.Name, valid))
}

// statusVerb never fails for what is wrong with egress: its error makes the whole
// node NotReady, with all the pods that have nothing to do with egress-ip.
func statusVerb(args *skel.CmdArgs) error {
	if err := config.Validate(args.StdinData); err != nil {
		slog.Warn("the configuration is not valid, so ADD fails", "error", err)
	}
	return nil
}
