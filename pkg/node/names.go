package node

import (
	"log/slog"

	"github.com/egress-ip/egress-ip/pkg/egress"
	"github.com/egress-ip/egress-ip/pkg/names"
)

// nameTables keeps iproute2's names of the recorded tables true. Names are a
// courtesy: where they cannot be written, all else goes on.
func (n *Node) nameTables() {
	tables, err := n.store.Tables()
	if err == nil {
		err = names.Set(tableNames(tables))
	}
	if err != nil {
		slog.Warn("could not name the routing tables for iproute2", "error", err)
	}
}

func tableNames(tables []egress.Table) map[uint32]string {
	byNumber := map[uint32]string{}
	for _, t := range tables {
		byNumber[t.Table] = t.Link
	}
	return byNumber
}

func (v *view) tableNames() map[uint32]string {
	var tables []egress.Table
	for _, t := range v.tables {
		tables = append(tables, t.Table)
	}
	return tableNames(tables)
}
