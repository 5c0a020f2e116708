package main

import (
	"fmt"
	"slices"
)

// nothingLeft is the last act: after DEL the node is, line by line, what it was
// before the first annotated pod.
func nothingLeft(t *teller, n *node, annotated *pod, before, with reading) {
	n.detach(t, annotated)
	after := n.read(t)

	t.heading("5. What DEL leaves: everything read back from the node, in lines")
	t.print("   %-13s%s", "", columns(func(kind string) string { return kind }))
	row := func(when string, r reading, verdict string) {
		t.print("   %-13s%s%s", when, columns(func(kind string) string { return fmt.Sprint(len(r.of(kind))) }), verdict)
	}
	row("before ADD", before, "")
	row("with the pod", with, "")
	if !slices.Equal(before.lines, after.lines) {
		row("after DEL", after, "")
		for _, l := range after.beyond(before) {
			t.print("   left over: %s %s %s", l.kind, l.in, l.text)
		}
		for _, l := range before.beyond(after) {
			t.print("   lost: %s %s %s", l.kind, l.in, l.text)
		}
		t.Fatalf("after DEL the node should be what it was before ADD")
	}
	row("after DEL", after, "   "+t.good("the same, line by line"))
}

// columns puts a text for each kind into columns.
func columns(text func(kind string) string) string {
	var s string
	for _, kind := range kinds {
		s += fmt.Sprintf("%11s", text(kind))
	}
	return s
}
