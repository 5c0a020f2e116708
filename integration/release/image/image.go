package main

import (
	"archive/tar"
	"bytes"
	"debug/buildinfo"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// image is what is the same for all platforms.
type image struct{ name, commit, date string }

// write writes the archive. It appears whole or not at all.
func (i image) write(path string, binaries []string) error {
	tag, err := name.NewTag(i.name)
	if err != nil {
		return fmt.Errorf("-name: %w", err)
	}
	created := time.Unix(0, 0).UTC()
	if i.date != "" {
		if created, err = time.Parse(time.RFC3339, i.date); err != nil {
			return fmt.Errorf("-date: %w", err)
		}
	}
	all := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, binary := range binaries {
		one, platform, err := i.one(binary, tag.TagStr(), created)
		if err != nil {
			return err
		}
		all = mutate.AppendManifests(all, mutate.IndexAddendum{Add: one, Descriptor: v1.Descriptor{Platform: &platform}})
	}
	return archive(path, all, i.name, tag.TagStr())
}

// one is the image of one binary.
func (i image) one(binary, version string, created time.Time) (v1.Image, v1.Platform, error) {
	fail := func(err error) (v1.Image, v1.Platform, error) {
		return nil, v1.Platform{}, fmt.Errorf("image of %s: %w", binary, err)
	}
	info, err := buildinfo.ReadFile(binary)
	if err != nil {
		return fail(err)
	}
	var platform v1.Platform
	for _, s := range info.Settings {
		switch s.Key {
		case "GOOS":
			platform.OS = s.Value
		case "GOARCH":
			platform.Architecture = s.Value
		}
	}
	layer, err := layer(binary, created)
	if err != nil {
		return fail(err)
	}
	base := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	img, err := mutate.Append(base, mutate.Addendum{
		Layer: layer, History: v1.History{Created: v1.Time{Time: created}, CreatedBy: "the binary alone"},
	})
	if err != nil {
		return fail(err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		return fail(err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = platform.OS, platform.Architecture
	config.Created = v1.Time{Time: created}
	config.Config.Entrypoint = []string{Binary}
	config.Config.Labels = map[string]string{
		"org.opencontainers.image.title":    "egress-ip",
		"org.opencontainers.image.version":  version,
		"org.opencontainers.image.revision": i.commit,
	}
	if img, err = mutate.ConfigFile(img, config); err != nil {
		return fail(err)
	}
	return img, platform, nil
}

// layer has the binary, root's, and nothing else.
func layer(binary string, created time.Time) (v1.Layer, error) {
	data, err := os.ReadFile(binary)
	if err != nil {
		return nil, err
	}
	var files bytes.Buffer
	w := tar.NewWriter(&files)
	header := tar.Header{Name: Binary[1:], Mode: 0o755, Size: int64(len(data)), ModTime: created, Format: tar.FormatPAX}
	if err := w.WriteHeader(&header); err != nil {
		return nil, err
	}
	if _, err := w.Write(data); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(files.Bytes())), nil }
	return tarball.LayerFromOpener(open, tarball.WithMediaType(types.OCILayer))
}
