package status

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"text/tabwriter"
	"unicode"
	"unicode/utf8"
)

// table is columns of text, and lines that belong below a row and to no column.
type table struct {
	columns []string
	rows    [][]string
	below   [][]string // of each row, what it misses
}

func (t *table) row(missing []string, cells ...string) {
	for i, c := range cells {
		cells[i] = printable(c)
	}
	t.rows = append(t.rows, cells)
	t.below = append(t.below, missing)
}

// write writes an empty line and the table, or nothing for one without rows.
func (t table) write(b *bytes.Buffer) {
	if len(t.rows) == 0 {
		return
	}
	// A line without cells would end a tabwriter's columns, so the lines below rows
	// are put in afterwards.
	var aligned bytes.Buffer
	tw := tabwriter.NewWriter(&aligned, 0, 0, 2, ' ', 0)
	for _, r := range append([][]string{t.columns}, t.rows...) {
		fmt.Fprintln(tw, strings.Join(r, "\t"))
	}
	_ = tw.Flush() // a bytes.Buffer takes everything
	header, lines, _ := strings.Cut(aligned.String(), "\n")
	fmt.Fprintf(b, "\n%s\n", header)
	i := 0
	for line := range strings.Lines(lines) {
		b.WriteString(line)
		for _, m := range t.below[i] {
			fmt.Fprintf(b, "  missing: %s\n", printable(m))
		}
		i++
	}
}

func writeList(b *bytes.Buffer, title string, lines []string) {
	if len(lines) == 0 {
		return
	}
	fmt.Fprintf(b, "\n%s:\n", title)
	for _, l := range lines {
		fmt.Fprintf(b, "  %s\n", printable(l))
	}
}

// printable quotes what would break a table or a terminal: names come from
// outside.
func printable(s string) string {
	if utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return s
	}
	return strconv.Quote(s)
}
