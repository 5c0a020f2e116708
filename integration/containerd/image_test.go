package containerd

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os"
	"runtime"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// podImage is the image of sandboxes and containers; no registry has it.
const podImage = "localhost/egress-ip/pod:test"

// writeImage writes an archive of an image that has nothing but a static binary, /pod,
// and runs it.
func writeImage(archive, binary string) error {
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return tarOf("pod", binary) })
	if err != nil {
		return fmt.Errorf("layer with %s: %w", binary, err)
	}
	// containerd takes no image that is not for the machine's platform.
	image, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{
		OS: "linux", Architecture: runtime.GOARCH,
		Config: v1.Config{Entrypoint: []string{"/pod"}},
		RootFS: v1.RootFS{Type: "layers"},
	})
	if err == nil {
		image, err = mutate.AppendLayers(image, layer)
	}
	if err != nil {
		return fmt.Errorf("image %s: %w", podImage, err)
	}
	tag, err := name.NewTag(podImage)
	if err != nil {
		return err
	}
	return tarball.WriteToFile(archive, tag, image)
}

// tarOf is a tar archive with one executable.
func tarOf(name, path string) (io.ReadCloser, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(content))}); err != nil {
		return nil, err
	}
	if _, err := w.Write(content); err != nil {
		return nil, err
	}
	return io.NopCloser(&b), w.Close()
}
