package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/egress-ip/egress-ip/pkg/conflist"
	"github.com/egress-ip/egress-ip/pkg/install"
	"github.com/spf13/pflag"
)

// entryOptions are the flags that say what the entry is.
type entryOptions struct {
	file                                 string
	links, gateways, allow, clusterCIDRs []string
	defaults                             []string
}

func entryFlags(flags *pflag.FlagSet) *entryOptions {
	o := &entryOptions{}
	flags.StringVar(&o.file, "entry", "", "a `file` with the entry, a JSON object; - is stdin")
	flags.StringArrayVar(&o.links, "link", nil, "link that may carry egress, a `name` or a glob; without it, the link whose network contains the address")
	flags.StringArrayVar(&o.gateways, "gateway", nil, "the link's next hop, an `address`, if the main table has none; at most one per address family")
	flags.StringArrayVar(&o.allow, "allow", nil, "who may use the link with which addresses, `namespaces=addresses`: payments,team-*=192.168.124.96/28; without = the link's own address")
	flags.StringArrayVar(&o.defaults, "default", nil, "egress for namespaces whose pods have no annotation, `namespaces=addresses`: payments,team-*=192.168.124.99; without = their pods are plain; the first that matches applies")
	flags.StringArrayVar(&o.clusterCIDRs, "cluster-cidr", nil, "destinations that never leave by the link, a `prefix`: pods, Services, nodes; once for each")
	return o
}

// check finds flags that do not go together.
func (o *entryOptions) check(flags *pflag.FlagSet) error {
	switch {
	case flags.Changed("entry") && o.made():
		return errors.New("--entry has the whole entry; leave out --link, --gateway, --allow, --default and --cluster-cidr, or --entry")
	case flags.Changed("entry") && o.file == "":
		return errors.New("--entry is empty; name a file, or - for stdin")
	case len(o.links) > 1:
		return fmt.Errorf("--link %s and --link %s: flags speak of one link; for several, write the entry into a file for --entry", o.links[0], o.links[1])
	case len(o.links)+len(o.gateways)+len(o.defaults) > 0 && len(o.allow) == 0:
		return errors.New("without --allow no namespace may use the link; say who, and with which addresses: --allow payments=192.168.124.96/28")
	}
	return nil
}

// made reports whether the entry is made of flags.
func (o *entryOptions) made() bool {
	return len(o.links)+len(o.gateways)+len(o.allow)+len(o.defaults)+len(o.clusterCIDRs) > 0
}

// wanted returns the entry that the flags ask for, checked.
func (o *entryOptions) wanted() (install.Wanted, error) {
	w := install.Wanted{Else: []byte(conflist.ProbeOnly)}
	var err error
	switch {
	case o.file != "":
		w.Entry, err = o.read()
	case o.made():
		var text []byte
		if text, err = o.entry(); err == nil {
			w.Entry, err = conflist.Entry(text)
		}
	}
	return w, err
}

// read returns the entry that the file has.
func (o *entryOptions) read() ([]byte, error) {
	var text []byte
	var err error
	name := o.file
	if o.file == "-" {
		name = "stdin"
		text, err = io.ReadAll(io.LimitReader(os.Stdin, maxStdin))
	} else {
		text, err = os.ReadFile(o.file)
	}
	if err != nil {
		return nil, fmt.Errorf("--entry: %w", err)
	}
	entry, err := conflist.Entry(text)
	if err != nil {
		return nil, fmt.Errorf("--entry %s: %w", name, err)
	}
	return entry, nil
}

// follow is the file that may be given another entry; nil if none may.
func (o *entryOptions) follow() *install.Follow {
	if o.file == "" || o.file == "-" {
		return nil
	}
	return &install.Follow{Path: o.file, Read: o.read}
}

// entry writes the flags as the entry that says the same.
func (o *entryOptions) entry() ([]byte, error) {
	type allow struct {
		Namespaces []string `json:"namespaces"`
		Addresses  []string `json:"addresses,omitempty"`
	}
	type link struct {
		Name     string   `json:"name,omitempty"`
		Gateways []string `json:"gateways,omitempty"`
		Allow    []allow  `json:"allow"`
	}
	type byDefault struct {
		Namespaces []string `json:"namespaces"`
		Address    string   `json:"address,omitempty"`
	}
	var entry struct {
		Links        []link      `json:"links,omitempty"`
		Defaults     []byDefault `json:"defaults,omitempty"`
		ClusterCIDRs []string    `json:"clusterCIDRs,omitempty"`
	}
	entry.ClusterCIDRs = o.clusterCIDRs
	for _, s := range o.defaults {
		namespaces, address, _ := strings.Cut(s, "=")
		entry.Defaults = append(entry.Defaults, byDefault{strings.Split(namespaces, ","), address})
	}
	if len(o.allow) > 0 {
		l := link{Name: strings.Join(o.links, ""), Gateways: o.gateways}
		for _, s := range o.allow {
			namespaces, addresses, some := strings.Cut(s, "=")
			a := allow{Namespaces: strings.Split(namespaces, ",")}
			if some {
				a.Addresses = strings.Split(addresses, ",")
			}
			l.Allow = append(l.Allow, a)
		}
		entry.Links = []link{l}
	}
	return json.Marshal(entry)
}
