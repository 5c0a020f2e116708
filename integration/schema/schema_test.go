// Package schema compares conflist-examples/entry.schema.json, which editors and pipelines
// have, with the parser, which decides.
package schema

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/egress-ip/egress-ip/pkg/conflist"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

const (
	examples   = "../../conflist-examples"
	schemaFile = examples + "/entry.schema.json"
)

// compile reads the schema, which has to be one by the draft that it names.
func compile(t testing.TB) *jsonschema.Schema {
	t.Helper()
	text, err := os.ReadFile(schemaFile)
	require.NoError(t, err)
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	require.NoError(t, err)
	require.Equal(t, jsonschema.Draft2020.String(), document.(map[string]any)["$schema"])
	c := jsonschema.NewCompiler()
	require.NoError(t, c.AddResource("entry", document))
	s, err := c.Compile("entry")
	require.NoError(t, err)
	return s
}

// bySchema is what the schema says of an entry.
func bySchema(s *jsonschema.Schema, entry []byte) error {
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(entry))
	if err != nil {
		return err
	}
	return s.Validate(document)
}

// byParser is what `egress-ip install --entry` says of it: the parser, and that it is an entry
// of egress-ip.
func byParser(entry []byte) error {
	_, err := conflist.Entry(entry)
	return err
}

// TestExamples: all that the examples have is valid, entries, entries in lists, and those in
// manifests.
func TestExamples(t *testing.T) {
	t.Parallel()
	s := compile(t)
	found := map[string]int{} // by kind of file
	require.NoError(t, filepath.WalkDir(examples, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || path == schemaFile {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, entry := range entries(t, filepath.Ext(path), text) {
			found[filepath.Ext(path)]++
			require.NoError(t, bySchema(s, entry), path)
			require.NoError(t, byParser(entry), path)
		}
		return nil
	}))
	for _, kind := range []string{".json", ".conflist", ".yaml"} {
		require.Positive(t, found[kind], kind)
	}
}

// entries are those in a file.
func entries(t *testing.T, kind string, text []byte) (all [][]byte) {
	t.Helper()
	switch kind {
	case ".json":
		return [][]byte{text}
	case ".conflist":
		list, err := conflist.Parse(text)
		require.NoError(t, err)
		for _, p := range list.Plugins {
			if p.Type == conflist.Type {
				all = append(all, p.Text)
			}
		}
	case ".yaml":
		var object struct {
			Kind string
			Data map[string]string
		}
		require.NoError(t, yaml.Unmarshal(text, &object))
		for name, data := range object.Data {
			if object.Kind == "ConfigMap" && strings.HasSuffix(name, ".json") {
				all = append(all, []byte(data))
			}
		}
	}
	return all
}

// example has every key.
const example = `
{ "type": "egress-ip", "name": "pods", "cniVersion": "1.0.0", "args": {}, "ipam": {}, "dns": {},
  "runtimeConfig": { "a": 1 }, "prevResult": null, "cni.dev/valid-attachments": [],
  "capabilities": { "io.kubernetes.cri.pod-annotations": true },
  "links": [ { "name": "enp7s0", "duplicateCheck": false,
               "gateways": ["192.168.124.1", "fe80::1"],
               "allow": [ { "namespaces": ["payments", "team-[a-z]?*"], "addresses": ["192.168.124.96/28", "fd00:124::99"] } ] },
             { "name": "enp*", "allow": [ { "namespaces": ["*"] } ] } ],
  "clusterCIDRs": ["10.244.0.0/16", "fd00:244::/56"],
  "rulePriority": 6000, "tableBase": 1000, "markMask": "0x0f000000", "maskedMarks": "0xc000",
  "counters": true, "sourceCheck": true,
  "probeSNAT": { "mode": "auto", "links": ["eth0"],
                 "source": "fe80::1234:5678:9abc", "translated": "2603:1062:0:1:fe80:1234:5678:9abc" } }`

// TestMistakes: neither takes them.
func TestMistakes(t *testing.T) {
	t.Parallel()
	s := compile(t)
	require.NoError(t, bySchema(s, []byte(example)))
	require.NoError(t, byParser([]byte(example)))
	for name, replace := range map[string][2]string{
		"misspelt key":                   {`"clusterCIDRs":`, `"clusterCIDR":`},
		"key in another case":            {`"markMask":`, `"markmask":`},
		"misspelt key in links":          {`"gateways":`, `"gateway":`},
		"misspelt key in allow":          {`"addresses":`, `"adresses":`},
		"misspelt key in probeSNAT":      {`"translated":`, `"translate":`},
		"key of the CNI's in links":      {`"name": "enp*"`, `"cni.dev/name": "enp*"`},
		"another plugin's type":          {`"egress-ip"`, `"bridge"`},
		"type null":                      {`"egress-ip"`, `null`},
		"an address plugin":              {`"ipam": {}`, `"ipam": { "type": "host-local" }`},
		"ipam no object":                 {`"ipam": {}`, `"ipam": "host-local"`},
		"DNS":                            {`"dns": {}`, `"dns": { "domain": "a" }`},
		"capability as a string":         {`pod-annotations": true`, `pod-annotations": "true"`},
		"runtimeConfig as a list":        {`{ "a": 1 }`, `[]`},
		"name as a number":               {`"enp7s0"`, `7`},
		"name empty":                     {`"enp7s0"`, `""`},
		"name too long":                  {`"enp7s0"`, `"a234567890123456"`},
		"name with a slash":              {`"enp7s0"`, `"enp7/0"`},
		"name no glob":                   {`"enp7s0"`, `"enp[7"`},
		"name a glob that ends too soon": {`"enp7s0"`, `"enp*\\"`},
		"name ..":                        {`"enp7s0"`, `".."`},
		"duplicateCheck as a string":     {`false`, `"false"`},
		"gateways as a string":           {`["192.168.124.1", "fe80::1"]`, `"192.168.124.1"`},
		"three gateways":                 {`"fe80::1"`, `"fe80::1", "fe80::2"`},
		"gateway with a length":          {`"192.168.124.1"`, `"192.168.124.1/24"`},
		"gateway with a zone":            {`"fe80::1"`, `"fe80::1%eth0"`},
		"gateway null":                   {`"fe80::1"`, `null`},
		"gateway incomplete":             {`"192.168.124.1"`, `"192.168.124"`},
		"gateway multicast":              {`"fe80::1"`, `"ff02::2"`},
		"gateway IPv4 multicast":         {`"192.168.124.1"`, `"224.0.0.1"`},
		"gateway loopback":               {`"192.168.124.1"`, `"127.0.0.1"`},
		"gateway unspecified":            {`"fe80::1"`, `"::"`},
		"gateway broadcast":              {`"192.168.124.1"`, `"255.255.255.255"`},
		"link as a string":               {`{ "name": "enp*", "allow": [ { "namespaces": ["*"] } ] }`, `"enp*"`},
		"links as an object":             {`"links": [ {`, `"links": {}, "x": [ {`},
		"allow without namespaces":       {`"namespaces": ["*"]`, ``},
		"allow null":                     {`{ "namespaces": ["*"] }`, `null`},
		"no namespaces":                  {`["*"]`, `[]`},
		"namespaces null":                {`["*"]`, `null`},
		"namespaces as a string":         {`["*"]`, `"*"`},
		"namespace empty":                {`["*"]`, `[""]`},
		"namespace no glob":              {`["*"]`, `["team-[b-]"]`},
		"no addresses":                   {`["192.168.124.96/28", "fd00:124::99"]`, `[]`},
		"address with a word":            {`192.168.124.96/28`, `192.168.124.x`},
		"address with an octet of 256":   {`192.168.124.96/28`, `192.168.256.0/24`},
		"address with a leading zero":    {`192.168.124.96/28`, `192.168.024.96/28`},
		"IPv4 length":                    {`10.244.0.0/16`, `10.244.0.0/33`},
		"IPv6 length":                    {`fd00:244::/56`, `fd00:244::/129`},
		"length with a leading zero":     {`fd00:244::/56`, `fd00:244::/056`},
		"IPv6 group of five digits":      {`fd00:244::/56`, `fd00:24400::/56`},
		"IPv6 of seven groups":           {`fd00:124::99`, `1:2:3:4:5:6:7`},
		"IPv6 with two gaps":             {`fd00:124::99`, `fd00::124::99`},
		"every IPv4 address":             {`10.244.0.0/16`, `0.0.0.0/0`},
		"every IPv6 address":             {`fd00:244::/56`, `::/0`},
		"clusterCIDRs as a string":       {`["10.244.0.0/16", "fd00:244::/56"]`, `"10.244.0.0/16"`},
		"rulePriority too low":           {`6000`, `2`},
		"rulePriority too high":          {`6000`, `32766`},
		"rulePriority as a string":       {`6000`, `"6000"`},
		"rulePriority with a fraction":   {`6000`, `6000.5`},
		"tableBase too low":              {`1000`, `255`},
		"tableBase too high":             {`1000`, `2147483648`},
		"markMask as a number":           {`"0x0f000000"`, `251658240`},
		"markMask without 0x":            {`"0x0f000000"`, `"0f000000"`},
		"markMask empty":                 {`"0x0f000000"`, `""`},
		"markMask negative":              {`"0x0f000000"`, `"-1"`},
		"maskedMarks a word":             {`"0xc000"`, `"all"`},
		"counters as a string":           {`"counters": true`, `"counters": "yes"`},
		"counters without sourceCheck":   {`"sourceCheck": true`, `"sourceCheck": false`},
		"probeSNAT as a list":            {`{ "mode": "auto", "links": ["eth0"],`, `[], "x": {`},
		"mode in another case":           {`"auto"`, `"Auto"`},
		"probe link a glob":              {`["eth0"]`, `["eth*"]`},
		"probe link null":                {`["eth0"]`, `[null]`},
		"probe source global":            {`"fe80::1234:5678:9abc"`, `"2603::1"`},
		"probe source no address":        {`"fe80::1234:5678:9abc"`, `"fe80::x"`},
		"translated no address":          {`"2603:1062:0:1:fe80:1234:5678:9abc"`, `"2603::x"`},
		"probe source IPv4":              {`"fe80::1234:5678:9abc"`, `"169.254.1.1"`},
		"translated link-local":          {`"2603:1062:0:1:fe80:1234:5678:9abc"`, `"fe80::1"`},
		"translated multicast":           {`"2603:1062:0:1:fe80:1234:5678:9abc"`, `"ff05::1"`},
		"translated loopback":            {`"2603:1062:0:1:fe80:1234:5678:9abc"`, `"::1"`},
		"translated IPv4":                {`"2603:1062:0:1:fe80:1234:5678:9abc"`, `"192.0.2.1"`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, 1, strings.Count(example, replace[0]))
			entry := []byte(strings.Replace(example, replace[0], replace[1], 1))
			require.True(t, json.Valid(entry), "%s", entry)
			require.Error(t, bySchema(s, entry))
			require.Error(t, byParser(entry))
		})
	}
	for _, document := range []string{`null`, `[]`, `"egress-ip"`} {
		require.Error(t, bySchema(s, []byte(document)), document)
		require.Error(t, byParser([]byte(document)), document)
	}
}
