package release

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"github.com/stretchr/testify/require"
)

// TestImage: an image a platform, of the binary alone, under a name that runtimes read.
func TestImage(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, data := range files(t, bytes.NewReader(read(t, imageFile()))) {
		path := filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, data, 0o600))
	}
	top, err := layout.ImageIndexFromPath(dir)
	require.NoError(t, err)
	tops, err := top.IndexManifest()
	require.NoError(t, err)
	require.Len(t, tops.Manifests, 1)
	require.Equal(t, map[string]string{
		"io.containerd.image.name": "localhost/egress-ip:" + version, "org.opencontainers.image.ref.name": version,
	}, tops.Manifests[0].Annotations)
	index, err := top.ImageIndex(tops.Manifests[0].Digest)
	require.NoError(t, err)
	require.NoError(t, validate.Index(index))
	manifest, err := index.IndexManifest()
	require.NoError(t, err)
	require.Equal(t, types.OCIImageIndex, manifest.MediaType)

	var arches []string
	for _, m := range manifest.Manifests {
		require.Equal(t, "linux", m.Platform.OS)
		arches = append(arches, m.Platform.Architecture)
		img, err := index.Image(m.Digest)
		require.NoError(t, err)
		requireImage(t, img, m.Platform.Architecture)
	}
	require.Equal(t, []string{"amd64", "arm64"}, arches)
}

func requireImage(t *testing.T, img v1.Image, arch string) {
	t.Helper()
	config, err := img.ConfigFile()
	require.NoError(t, err)
	require.Equal(t, "linux/"+arch, config.Platform().String())
	require.Equal(t, v1.Config{
		Entrypoint: []string{"/egress-ip"},
		Labels: map[string]string{
			"org.opencontainers.image.title":    "egress-ip",
			"org.opencontainers.image.version":  version,
			"org.opencontainers.image.revision": commit,
		},
	}, config.Config)
	require.Equal(t, date, config.Created.Format("2006-01-02T15:04:05Z07:00"))
	layers, err := img.Layers()
	require.NoError(t, err)
	require.Len(t, layers, 1)
	content, err := layers[0].Uncompressed()
	require.NoError(t, err)
	defer content.Close()
	have := files(t, content)
	require.Len(t, have, 1)
	require.True(t, bytes.Equal(read(t, binary(arch)), have["egress-ip"]), "the image has another binary")
}

// files are what an archive has, by name: files that are root's, and nothing else.
func files(t *testing.T, archive io.Reader) map[string][]byte {
	t.Helper()
	have := map[string][]byte{}
	for r := tar.NewReader(archive); ; {
		header, err := r.Next()
		if err == io.EOF {
			return have
		}
		require.NoError(t, err)
		require.Equal(t, byte(tar.TypeReg), header.Typeflag, header.Name)
		require.Zero(t, header.Uid+header.Gid, header.Name)
		if header.Name == "egress-ip" {
			require.Equal(t, int64(0o755), header.Mode)
		}
		data, err := io.ReadAll(r)
		require.NoError(t, err)
		require.NotContains(t, have, header.Name)
		have[header.Name] = data
	}
}
