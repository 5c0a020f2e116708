package main

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
)

// sameShape makes sure that each annotated pod of a node has the objects that the
// first one, which was attached, has, and that no other object names a pod.
func sameShape(s *scope, n *node) {
	shapes := shapesOf(s, n)
	for i := 1; i <= n.pods; i++ {
		for _, f := range families {
			want, have := shapes[f.pod(1)], shapes[f.pod(i)]
			if len(want) == 0 || !slices.Equal(want, have) {
				s.Fatalf("%s: pod %d was added with\n%s\ninstead of\n%s", n.label, i, strings.Join(have, "\n"), strings.Join(want, "\n"))
			}
		}
	}
	if len(shapes) != n.pods*len(families) {
		s.Fatalf("%s: objects of %d pod addresses instead of %d", n.label, len(shapes), n.pods*len(families))
	}
}

var (
	podAddress  = regexp.MustCompile(`(10\.244\.\d+\.\d+|fd00:10:244::[0-9a-f]+)([^/0-9a-f.:]|$)`)
	containerID = regexp.MustCompile(`container-\d+`)
)

// shapesOf returns the rules, routes and elements of each pod address, with
// placeholders for what differs between pods.
func shapesOf(s *scope, n *node) map[netip.Addr][]string {
	shapes := map[netip.Addr][]string{}
	add := func(object string) {
		m := podAddress.FindStringSubmatch(object)
		if m == nil {
			return
		}
		pod := netip.MustParseAddr(m[1])
		object = containerID.ReplaceAllString(strings.ReplaceAll(object, m[1], "POD"), "CONTAINER")
		shapes[pod] = append(shapes[pod], object)
	}
	for _, f := range families {
		for line := range strings.Lines(n.run(s, "", "ip", f.flag, "-d", "rule")) {
			add(strings.TrimSpace(line))
		}
		for line := range strings.Lines(n.run(s, "", "ip", f.flag, "-d", "route", "show", "table", fmt.Sprint(n.secondTable(s)))) {
			add(strings.TrimSpace(line))
		}
	}
	var listed struct {
		Nftables []map[string]struct {
			Name string
			Elem []any
		}
	}
	if err := json.Unmarshal([]byte(n.run(s, "", "nft", "-j", "list", "table", "inet", "egress_ip")), &listed); err != nil {
		s.Fatalf("%s: read what nft lists: %w", n.label, err)
	}
	for _, object := range listed.Nftables {
		for _, m := range object {
			for _, element := range m.Elem {
				if text := fmt.Sprint(element); !strings.Contains(text, "prefix:") { // a cluster network's
					add(m.Name + " " + text)
				}
			}
		}
	}
	for _, objects := range shapes {
		slices.Sort(objects)
	}
	return shapes
}
