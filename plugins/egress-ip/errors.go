package main

import (
	"errors"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/egress-ip/egress-ip/pkg/config"
	"github.com/egress-ip/egress-ip/pkg/lock"
	"github.com/egress-ip/egress-ip/pkg/node"
)

// Codes of our own; those below 100 are the specification's.
const (
	errAnnotation = 100 // an annotation cannot be honoured
	errNode       = 101 // the node's kernel or record could not be read or written
	errMissing    = 102 // CHECK: something recorded is not there
	errConflict   = 103 // somebody else does egress on this node
)

// cniError gives an error the code that a runtime sees; nil stays nil.
func cniError(err error) error {
	if err == nil {
		return nil
	}
	code := uint(errNode)
	var (
		annotation *config.AnnotationError
		invalid    *config.InvalidError
		missing    *node.MissingError
		conflict   *node.ConflictError
		held       *lock.HeldError
	)
	switch {
	case errors.As(err, &annotation):
		code = errAnnotation
	case errors.As(err, &missing):
		code = errMissing
	case errors.As(err, &held):
		code = types.ErrTryAgainLater
	case errors.As(err, &conflict):
		code = errConflict
	case errors.As(err, &invalid):
		code = types.ErrInvalidNetworkConfig
	}
	return types.NewError(code, err.Error(), "")
}
