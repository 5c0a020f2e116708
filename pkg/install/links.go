package install

import (
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/egress-ip/egress-ip/pkg/config"
)

// missingLinks returns a line for each link of an entry that the node does not have.
func missingLinks(c config.Config) ([]string, error) {
	links, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("list the node's links: %w", err)
	}
	var names []string
	for _, l := range links {
		names = append(names, l.Name)
	}
	var lines []string
	for i, l := range c.Links {
		if !slices.ContainsFunc(names, l.Matches) {
			lines = append(lines, fmt.Sprintf("links[%d].name: this node has no link %s now; it has %s", i, l.Pattern, strings.Join(names, ", ")))
		}
	}
	for _, name := range c.Probe.Links { // sorted, so their index there is unknown
		if !slices.Contains(names, name) {
			lines = append(lines, fmt.Sprintf("probeSNAT.links: this node has no link %s now; it has %s", name, strings.Join(names, ", ")))
		}
	}
	return lines, nil
}
