package install

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/egress-ip/egress-ip/pkg/conflist"
)

// Place is where egress-ip goes on a node.
type Place struct {
	BinDir  string // of plugins
	ConfDir string // of network configurations
	// Conflist is the list; empty: the first file in ConfDir, as runtimes choose.
	Conflist string
	// Versions are the CNI versions that egress-ip speaks.
	Versions []string
}

// notYetError says that there is no list, or none that can be read, which may be
// different in a moment, when the main plugin has written it.
type notYetError struct{ error }

// refusedError says why egress-ip cannot be installed, and what to do.
type refusedError struct{ error }

func refused(format string, args ...any) error { return &refusedError{fmt.Errorf(format, args...)} }

// files returns the paths of a directory that runtimes read, in their order.
func files(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir) // by name
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var paths []string
	for _, e := range entries {
		if !e.IsDir() && slices.Contains([]string{".conf", ".conflist", ".json"}, filepath.Ext(e.Name())) {
			paths = append(paths, filepath.Join(dir, e.Name()))
		}
	}
	return paths, nil
}

// file returns the path of the configuration.
func (p Place) file() (string, error) {
	if p.Conflist != "" {
		return p.Conflist, nil
	}
	paths, err := files(p.ConfDir)
	if err != nil {
		return "", err
	}
	if len(paths) == 0 {
		return "", &notYetError{fmt.Errorf("%s has no .conflist, .conf or .json: install the main CNI plugin first, name its directory with --conf-dir, or wait for it with --watch", p.ConfDir)}
	}
	return paths[0], nil
}

// source is the list as it is.
type source struct {
	file
	name string // the path by which runtimes know it
	list conflist.List
}

// read returns the list. It refuses one where egress-ip cannot work.
func (p Place) read() (s source, err error) {
	if s.name, err = p.file(); err != nil {
		return source{}, err
	}
	s.file, err = readFile(s.name)
	slog.Debug("read the configuration", "file", s.name, "error", err)
	if errors.Is(err, fs.ErrNotExist) {
		return source{}, &notYetError{err}
	}
	if err != nil {
		return source{}, err
	}
	isList := filepath.Ext(s.name) == ".conflist"
	parse := conflist.ParseOne
	if isList {
		parse = conflist.Parse
	}
	s.list, err = parse(s.text)
	isWhole := !errors.As(err, new(*json.SyntaxError))
	if err == nil {
		err = s.list.Suits(p.Versions)
	}
	switch {
	case !isWhole, err != nil && len(s.list.Plugins) > 0 && s.list.Main().Type == "loopback": // the main plugin's is still to come
		return source{}, &notYetError{fmt.Errorf("%s: %w", s.name, err)}
	case err != nil:
		return source{}, refused("%s: %w", s.name, err)
	case !isList:
		return source{}, refused("%s: runtimes read a file of this name as the configuration of one plugin, to which no other can be chained; write a list with this plugin into %s, as in conflist-examples, and remove this file; if it has a list already, rename it",
			s.name, strings.TrimSuffix(filepath.Base(s.name), filepath.Ext(s.name))+".conflist")
	}
	return s, nil
}

// unread warns of a list that is named but that runtimes do not take.
func (p Place) unread(s source) ([]string, error) {
	paths, err := files(p.ConfDir)
	if err != nil || len(paths) == 0 {
		return nil, err
	}
	first, err := readFile(paths[0])
	if err == nil && first.path == s.path {
		return nil, nil
	}
	warning := fmt.Sprintf("runtimes take the first file in %s, %s, and not %s", p.ConfDir, filepath.Base(paths[0]), s.name)
	if bytes.Contains(first.text, []byte(`"multus`)) {
		warning += "; Multus, which it is of, may call that one, but hands it no annotations, so no pod leaves by a link"
	}
	return []string{warning}, nil
}
