package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"

	"github.com/containernetworking/cni/pkg/ns"
	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/egress-ip/egress-ip/pkg/config"
	"github.com/egress-ip/egress-ip/pkg/egress"
	"github.com/egress-ip/egress-ip/pkg/kernel"
	"github.com/egress-ip/egress-ip/pkg/lock"
	"github.com/egress-ip/egress-ip/pkg/node"
)

// add fails a plain pod, one without an annotation of egress-ip's and not selected by defaults, only for what is
// wrong with the chain: a prevResult that does not parse, or CNI_NETNS. Whatever else
// is wrong, an entry with a mistake or a kernel that cannot be read, is logged.
func add(args *skel.CmdArgs) error {
	r, err := config.ParseRequest(args)
	if err != nil {
		return cniError(err)
	}
	// skel looks at this too, but only after ADD has done its work.
	if same, err := ns.CheckNetNS(args.Netns); err != nil {
		return err
	} else if same {
		return types.NewError(types.ErrInvalidNetNS, fmt.Sprintf("CNI_NETNS %s is the node's own network namespace", args.Netns), "")
	}
	// A main plugin makes a new link; whoever attaches one once more wants it to send.
	if err := kernel.Unsilence(args.Netns, args.IfName); err != nil {
		slog.Warn("the pod may not be able to send", "error", err)
	}
	if !r.Annotated() {
		if err := r.ApplyDefaults(args.StdinData, args.Args); err != nil {
			return cniError(err)
		}
	}
	if r.Annotated() {
		err = addAnnotated(args, r)
	} else if err := addPlain(args, r); err != nil {
		slog.Warn("something is wrong with egress-ip; this pod is not annotated and starts all the same", "error", err)
	}
	if err != nil {
		return cniError(err)
	}
	return types.PrintResult(r.PrevResult, r.CNIVersion)
}

func addAnnotated(args *skel.CmdArgs, r config.Request) error {
	c, err := config.ParseEntry(args.StdinData)
	if err != nil {
		return err
	}
	if err := r.NamePod(args.Args); err != nil {
		return err
	}
	n, err := node.Open()
	if err != nil {
		return err
	}
	defer n.Close()
	return n.Attach(c, r)
}

// addPlain goes on after an error, and returns all.
func addPlain(args *skel.CmdArgs, r config.Request) error {
	if config.MissesCapability(args.StdinData) {
		slog.Warn(`links are configured, but "capabilities": {"io.kubernetes.cri.pod-annotations": true} is missing, so no annotation arrives`)
	}
	c, invalid := config.ParseEntry(args.StdinData)
	n, err := node.Open()
	if err != nil {
		return errors.Join(invalid, err)
	}
	defer n.Close()
	displaced := n.Displace(r.PodAddresses)
	if invalid != nil {
		return errors.Join(invalid, displaced)
	}
	return errors.Join(displaced, n.FollowRoutes(r.PodAddresses), n.EnsureProbe(c.Probe, r.PodAddresses))
}

func check(args *skel.CmdArgs) error {
	r, err := config.ParseRequest(args)
	if err != nil {
		return cniError(err)
	}
	if !r.Annotated() {
		// It has egress by defaults, as they were when it started, or is plain.
		recorded, err := node.Recorded(egress.Owner{ContainerID: r.ContainerID, IfName: r.IfName})
		if err != nil {
			slog.Warn("it is not known whether this pod has egress by defaults; it is not annotated, and not checked", "error", err)
		}
		if !recorded {
			return nil
		}
	}
	n, err := node.Open()
	if err != nil {
		return cniError(err)
	}
	defer n.Close()
	return cniError(n.Check(r))
}

func del(args *skel.CmdArgs, netns string) error {
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
	return cniError(n.Detach(owner, netns))
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
		slog.Warn("the configuration is not valid, so annotated pods do not start", "error", err)
	}
	return nil
}

// Codes of our own; those below 100 are the specification's.
const (
	codeAnnotation = 100 // an annotation cannot be honoured
	codeNode       = 101 // the node's kernel or record could not be read or written
	codeMissing    = 102 // CHECK: something recorded does not exist
	codeConflict   = 103 // somebody else does egress on this node
)

// cniError gives an error the code that a runtime sees; nil stays nil.
func cniError(err error) error {
	if err == nil {
		return nil
	}
	code := uint(codeNode)
	switch {
	case errors.As(err, new(*config.AnnotationError)):
		code = codeAnnotation
	case errors.As(err, new(*node.MissingError)):
		code = codeMissing
	case errors.As(err, new(*lock.HeldError)):
		code = types.ErrTryAgainLater
	case errors.As(err, new(*node.ConflictError)):
		code = codeConflict
	case errors.As(err, new(*config.InvalidError)):
		code = types.ErrInvalidNetworkConfig
	}
	return types.NewError(code, err.Error(), "")
}
