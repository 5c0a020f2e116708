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
func (o *entryOptions) wanted() (w install.Wanted, err error) {
	w.Else = []byte(conflist.ProbeOnly)
	switch {
	case o.file != "":
		w.Entry, err = o.read()
		if o.file != "-" {
			w.File, w.Read = o.file, o.read
		}
	case o.made():
		w.Entry, err = conflist.Entry(o.entry())
	}
	return w, err
}

// read returns the entry that the file has.
func (o *entryOptions) read() (entry []byte, err error) {
	var text []byte
	if o.file == "-" {
		text, err = io.ReadAll(io.LimitReader(os.Stdin, maxStdin))
	} else {
		text, err = os.ReadFile(o.file)
	}
	if err == nil {
		entry, err = conflist.Entry(text)
	}
	if err != nil {
		return nil, fmt.Errorf("--entry %s: %w", o.file, err)
	}
	return entry, nil
}

// What the flags make of an entry; unlike a map's, its keys keep their order.
type (
	allowed struct {
		Namespaces []string `json:"namespaces"`
		Addresses  []string `json:"addresses,omitempty"`
	}
	allowedLink struct {
		Name     string    `json:"name,omitempty"`
		Gateways []string  `json:"gateways,omitempty"`
		Allow    []allowed `json:"allow"`
	}
	byDefault struct {
		Namespaces []string `json:"namespaces"`
		Address    string   `json:"address,omitempty"`
	}
)

// entry writes the flags as the entry that says the same.
func (o *entryOptions) entry() []byte {
	var entry struct {
		Links        []allowedLink `json:"links,omitempty"`
		Defaults     []byDefault   `json:"defaults,omitempty"`
		ClusterCIDRs []string      `json:"clusterCIDRs,omitempty"`
	}
	entry.ClusterCIDRs = o.clusterCIDRs
	for _, s := range o.defaults {
		namespaces, address, _ := strings.Cut(s, "=")
		entry.Defaults = append(entry.Defaults, byDefault{strings.Split(namespaces, ","), address})
	}
	link := allowedLink{Name: strings.Join(o.links, ""), Gateways: o.gateways}
	for _, s := range o.allow {
		namespaces, addresses, some := strings.Cut(s, "=")
		a := allowed{Namespaces: strings.Split(namespaces, ",")}
		if some {
			a.Addresses = strings.Split(addresses, ",")
		}
		link.Allow = append(link.Allow, a)
	}
	if len(link.Allow) > 0 {
		entry.Links = []allowedLink{link}
	}
	text, _ := json.Marshal(entry) // of strings alone
	return text
}
