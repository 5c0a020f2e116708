package main

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
)

// archive writes an index of images as the one entry of an OCI layout.
func archive(path string, index v1.ImageIndex, name, tag string) (err error) {
	dir, err := os.MkdirTemp(filepath.Dir(path), "image")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	to, err := layout.Write(filepath.Join(dir, "layout"), empty.Index)
	if err != nil {
		return fmt.Errorf("write the layout: %w", err)
	}
	// The first is for containerd, the second is the specification's.
	names := map[string]string{"io.containerd.image.name": name, "org.opencontainers.image.ref.name": tag}
	if err := to.AppendIndex(index, layout.WithAnnotations(names)); err != nil {
		return fmt.Errorf("write the layout: %w", err)
	}
	next := filepath.Join(dir, "archive")
	if err := pack(next, os.DirFS(string(to))); err != nil {
		return fmt.Errorf("write the archive: %w", err)
	}
	return os.Rename(next, path)
}

// pack writes the files of a folder in the order of their names, without what the
// file system says of them.
func pack(path string, files fs.FS) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w := tar.NewWriter(f)
	err = fs.WalkDir(files, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		return add(w, files, name)
	})
	return errors.Join(err, w.Close())
}

func add(w *tar.Writer, files fs.FS, name string) error {
	from, err := files.Open(name)
	if err != nil {
		return err
	}
	defer from.Close()
	info, err := from.Stat()
	if err != nil {
		return err
	}
	if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: info.Size(), Format: tar.FormatPAX}); err != nil {
		return err
	}
	_, err = io.Copy(w, from)
	return err
}
