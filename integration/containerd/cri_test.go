package containerd

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// callTimeout is for one CRI call, while many others are under way on a small machine.
const callTimeout = 2 * time.Minute

// cri is a connection to containerd.
type cri struct {
	connection *grpc.ClientConn
	runtime    runtime.RuntimeServiceClient
	images     runtime.ImageServiceClient
}

// connect connects to the node's containerd, and waits until it answers.
func (n *node) connect(t *testing.T) {
	t.Helper()
	// A path below /proc/PID/root is one as that process sees it.
	address := fmt.Sprintf("unix:///proc/%d/root%s", n.machine.Process.Pid, socket)
	soon := backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1, MaxDelay: 20 * time.Millisecond}
	connection, err := grpc.NewClient(address,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: soon, MinConnectTimeout: time.Second}))
	require.NoError(t, err)
	n.cri = cri{connection, runtime.NewRuntimeServiceClient(connection), runtime.NewImageServiceClient(connection)}
	eventually(t, func() error {
		_, err := call(t, n.runtime.Version, &runtime.VersionRequest{})
		return err
	})
}

func (c *cri) close() {
	if c.connection != nil {
		_ = c.connection.Close() // one that is closed already is what is wanted
	}
}

// waitReady waits until containerd has the conflist and the pods' image.
func (n *node) waitReady(t *testing.T) {
	t.Helper()
	eventually(t, func() error {
		status, err := call(t, n.runtime.Status, &runtime.StatusRequest{})
		if err != nil {
			return err
		}
		for _, condition := range status.Status.Conditions {
			if !condition.Status {
				return fmt.Errorf("%s", condition)
			}
		}
		image, err := call(t, n.images.ImageStatus, &runtime.ImageStatusRequest{Image: &runtime.ImageSpec{Image: podImage}})
		if err == nil && image.Image == nil {
			err = fmt.Errorf("containerd does not know %s", podImage)
		}
		return err
	})
}

// call makes one CRI call.
func call[Request, Response any](t *testing.T, method func(context.Context, Request, ...grpc.CallOption) (Response, error), request Request) (Response, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), callTimeout)
	defer cancel()
	return method(ctx, request)
}

// eventually waits until the function has no error any more, a minute at the most.
func eventually(t *testing.T, try func() error) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		if err = try(); err == nil || time.Now().After(deadline) {
			break
		}
	}
	require.NoError(t, err)
}
