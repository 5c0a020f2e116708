package egress

import (
	"slices"
	"strconv"
)

// Object is something that several attachments may need, and that goes with the last of
// them. Two are the same if they are equal.
type Object struct {
	kind    objectKind
	index   int     // of a link
	table   uint32  // of a link
	family  Family  // of the table
	address Address // on its link
	rule    Rule    // that is not a pod's own
	chain   string
}

type objectKind int

const (
	classificationObject objectKind = iota + 1
	linkObject
	chainObject
	tableObject
	addressObject
	ruleObject
)

// ClassificationObject is what all attachments need: the table inet egress_ip.
var ClassificationObject = Object{kind: classificationObject}

// LinkObject is the chains of the flow's link, and its mark.
func LinkObject(f Flow) Object { return Object{kind: linkObject, index: f.Index} }

// OutObject is the chain of the flow's link in which what its pod sends is classified.
func (a Attachment) OutObject(f Flow) Object { return Object{kind: chainObject, chain: a.OutChain(f)} }

// OutChain names the chain in which what a flow's pod sends is classified.
func (a Attachment) OutChain(f Flow) string {
	c := a.Classification(f)
	return c.out().name(c.Index)
}

// TableObject is the table of the flow's link in its family.
func TableObject(f Flow) Object {
	return Object{kind: tableObject, table: f.Table, family: f.Family()}
}

// AddressObject is the egress address on its link.
func AddressObject(f Flow) Object { return Object{kind: addressObject, address: f.HostAddress()} }

// RuleObject is a rule that is not a pod's own.
func RuleObject(r Rule) Object { return Object{kind: ruleObject, rule: r} }

// Mentioned is a text that the JSON of each attachment that needs the object has; empty
// where it is not worth looking for one, since most attachments need the object.
func (o Object) Mentioned() string {
	switch o.kind {
	case linkObject:
		return strconv.Itoa(o.index)
	case tableObject:
		return strconv.FormatUint(uint64(o.table), 10)
	case addressObject:
		return strconv.Quote(o.address.Address.String())
	case ruleObject:
		if o.rule.Mark != 0 {
			return strconv.FormatUint(uint64(o.rule.Mark), 10)
		}
	}
	return ""
}

// Objects returns what flows of an attachment share with others, each once.
func (a Attachment) Objects(flows ...Flow) []Object {
	var objects []Object
	for _, f := range flows {
		needs := []Object{TableObject(f), AddressObject(f), LinkObject(f), a.OutObject(f), ClassificationObject}
		for _, r := range a.SharedRules(f) {
			needs = append(needs, RuleObject(r))
		}
		for _, o := range needs {
			if !slices.Contains(objects, o) {
				objects = append(objects, o)
			}
		}
	}
	return objects
}
