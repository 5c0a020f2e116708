package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/egress-ip/egress-ip/pkg/record"
	"github.com/vishvananda/netlink"
)

// object is a JSON object, as a plugin's configuration is.
type object map[string]any

// callSystem is a plugin, and the calls that a round makes of it, in order, on a
// node of its own.
type callSystem struct {
	label, plugin string
	lab           *nettest.Lab
	calls         []labelledCall
	after         func() error // takes away what the main plugin's DEL would
}

// labelledCall is a call that is measured; one without a label is only made.
type labelledCall struct {
	label string
	call
}

// Labels of calls: what is compared has the same.
const (
	addAnnotated   = "ADD, annotated"
	checkAnnotated = "CHECK, annotated"
	delAnnotated   = "DEL, annotated"
	addFirst       = "ADD, annotated, first on the link"
	delLast        = "DEL, annotated, last on the link"
	addBoth        = "ADD, annotated, both families"
	delBoth        = "DEL, annotated, both families"
	addPlain       = "ADD, not annotated"
	checkPlain     = "CHECK, not annotated"
	delPlain       = "DEL, not annotated"
	addPlugin      = "ADD"
	checkPlugin    = "CHECK"
	delPlugin      = "DEL"
	statusPlugin   = "STATUS"
)

const (
	podIPv4, podIPv6 = "10.244.1.5", "fd00:10:244::5"
	podContainer     = "8f1d2c3b4a5968778695a4b3c2d1e0f00112233445566778899aabbccddeeff0"
)

// newCallLab builds a node with a pod that has an address of IPv4; what egress-ip
// records of the node goes with the scope.
func newCallLab(s *scope) (*nettest.Lab, *nettest.Pod) {
	lab := nettest.NewLab(s, nettest.LabOptions{SecondDefault: true})
	var store record.Store
	var err error
	lab.Node.Do(s, func() { store, err = record.Open() })
	s.must(err)
	s.Cleanup(func() { _ = os.RemoveAll(store.Dir()) })
	return lab, lab.PodVeth(s, podIPv4, "")
}

// egressConfig is the plugin's own part of a configuration.
func egressConfig(annotations object) object {
	config := object{
		"type": "egress-ip", "capabilities": object{"io.kubernetes.cri.pod-annotations": true},
		"links": []object{{"name": nettest.SecondLink, "allow": []object{{
			"namespaces": []string{"payments"}, "addresses": []string{"192.168.124.96/28", "fd00:124::90/124"}}}}},
		"clusterCIDRs": []string{"10.244.0.0/16", "10.96.0.0/12", "fd00:10:244::/56"},
	}
	if annotations != nil {
		// What a runtime passes beside ours.
		annotations["kubernetes.io/config.seen"] = "2026-01-01T00:00:00.000000000Z"
		annotations["kubernetes.io/config.source"] = "api"
		config["runtimeConfig"] = object{"io.kubernetes.cri.pod-annotations": annotations}
	}
	return config
}

func egressAddress(address string) object { return object{"egress-ip.cni/address": address} }

// stdin adds to a plugin's own part what every one gets: of a pod with these
// addresses, or, without a pod, for STATUS.
func stdin(s *scope, own object, pod *nettest.Pod, addresses ...string) string {
	all := object{"cniVersion": "1.1.0", "name": "pods"}
	for key, value := range own {
		all[key] = value
	}
	if pod != nil {
		var ips []object
		for _, address := range addresses {
			ips = append(ips, object{"address": address, "interface": 1})
		}
		all["prevResult"] = object{
			"cniVersion": "1.1.0", "ips": ips,
			"interfaces": []object{
				{"name": pod.HostLink, "mac": "0a:58:0a:f4:01:01"},
				{"name": "eth0", "mac": "0a:58:0a:f4:01:05", "sandbox": pod.Path()},
			},
			"routes": []object{{"dst": "0.0.0.0/0"}}, "dns": object{},
		}
	}
	text, err := json.Marshal(all)
	s.must(err)
	return string(text)
}

// cycle is ADD, CHECK and DEL of one pod; a verb without a label is left out,
// ADD and DEL aside.
func cycle(netns, container, stdin string, add, check, del string) []labelledCall {
	calls := []labelledCall{{add, call{"ADD", container, netns, stdin}}}
	if check != "" {
		calls = append(calls, labelledCall{check, call{"CHECK", container, netns, stdin}})
	}
	return append(calls, labelledCall{del, call{"DEL", container, netns, stdin}})
}

// callSystems makes a node for each plugin.
func callSystems(s *scope, dir string, aws bool) []callSystem {
	lab, pod := newCallLab(s)
	none := stdin(s, egressConfig(object{}), pod, podIPv4+"/32")
	noop := callSystem{noopLabel, "noop", lab, append(cycle(pod.Path(), podContainer, none, addPlugin, checkPlugin, delPlugin),
		labelledCall{statusPlugin, call{"STATUS", "", "", stdin(s, egressConfig(nil), nil)}}), nil}
	systems := []callSystem{noop, egressSystem(s, dir), firstSystem(s)}
	for _, p := range []struct {
		label, plugin string
		own           object
		check         string
	}{
		{portmapLabel, "portmap", object{"type": "portmap", "backend": "nftables", "snat": true,
			"runtimeConfig": object{"portMappings": []object{{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}}}}, checkPlugin},
		{"sbr", "sbr", object{"type": "sbr"}, ""},
		{"bandwidth", "bandwidth", object{"type": "bandwidth", "runtimeConfig": object{"bandwidth": object{
			"ingressRate": 1_000_000, "ingressBurst": 1_000_000, "egressRate": 1_000_000, "egressBurst": 1_000_000}}}, checkPlugin},
		{"firewall", "firewall", object{"type": "firewall", "backend": "iptables"}, checkPlugin},
	} {
		lab, pod := newCallLab(s)
		systems = append(systems, callSystem{p.label, p.plugin, lab,
			cycle(pod.Path(), podContainer, stdin(s, p.own, pod, podIPv4+"/32"), addPlugin, p.check, delPlugin),
			func() error { return deleteQdiscs(lab.Node, pod.HostLink) }})
	}
	if aws {
		systems = append(systems, awsSystem(s, dir))
	}
	return systems
}

const (
	noopLabel    = "no-op plugin"
	egressLabel  = "egress-ip"
	portmapLabel = "portmap, nftables"
)

// egressSystem is a node that has an annotated pod already, on the same link and
// with the same egress addresses.
func egressSystem(s *scope, dir string) callSystem {
	lab, pod := newCallLab(s)
	other := lab.PodVeth(s, "10.244.1.9", "fd00:10:244::9")
	stands := call{"ADD", "stands", other.Path(), stdin(s, egressConfig(egressAddress("192.168.124.99,fd00:124::99")), other, "10.244.1.9/32", "fd00:10:244::9/128")}
	_, err := stands.measure(lab.Node, dir, "egress-ip")
	s.must(err)
	in := func(annotations object, addresses ...string) string {
		return stdin(s, egressConfig(annotations), pod, addresses...)
	}
	var calls []labelledCall
	for _, c := range [][]labelledCall{
		cycle(pod.Path(), podContainer, in(egressAddress("192.168.124.99"), podIPv4+"/32"), addAnnotated, checkAnnotated, delAnnotated),
		cycle(pod.Path(), podContainer, in(object{}, podIPv4+"/32"), addPlain, checkPlain, delPlain),
		cycle(pod.Path(), podContainer, in(egressAddress("192.168.124.99,fd00:124::99"), podIPv4+"/32", podIPv6+"/128"), addBoth, "", delBoth),
		{{statusPlugin, call{"STATUS", "", "", stdin(s, egressConfig(nil), nil)}}},
	} {
		calls = append(calls, c...)
	}
	return callSystem{egressLabel, "egress-ip", lab, calls, nil}
}

// firstSystem is a node without any other annotated pod: ADD puts everything up,
// and asks the link who has the address, which takes 200 ms.
func firstSystem(s *scope) callSystem {
	lab, pod := newCallLab(s)
	return callSystem{egressLabel, "egress-ip", lab,
		cycle(pod.Path(), podContainer, stdin(s, egressConfig(egressAddress("192.168.124.99")), pod, podIPv4+"/32"), addFirst, "", delLast), nil}
}

// deleteQdiscs takes off a link what bandwidth leaves for the link's own end.
func deleteQdiscs(n *nettest.Namespace, name string) error {
	link, err := n.Netlink().LinkByName(name)
	if err != nil {
		return fmt.Errorf("qdiscs: %w", err)
	}
	qdiscs, err := n.Netlink().QdiscList(link)
	if err != nil {
		return fmt.Errorf("qdiscs of %s: %w", name, err)
	}
	for _, q := range qdiscs {
		if q.Type() == "noqueue" {
			continue // the kernel's own
		}
		if err := n.Netlink().QdiscDel(q); err != nil {
			return fmt.Errorf("delete qdisc %s of %s: %w", q.Type(), name, err)
		}
	}
	return nil
}

// awsSystem gives the pod an own link to the node, whose address is that of IPv4
// egress: that is how the plugin gives pods of an IPv6 cluster IPv4.
func awsSystem(s *scope, dir string) callSystem {
	lab := nettest.NewLab(s, nettest.LabOptions{SecondDefault: true})
	pod := lab.PodVeth(s, "", podIPv6)
	state, err := os.MkdirTemp(dir, "host-local-")
	s.must(err)
	own := object{
		"type": "aws-cni", "mtu": "9001", "enabled": "true", "randomizeSNAT": "prng", "nodeIP": nettest.PrimaryIPv4,
		"ipam": object{
			"type": "host-local", "dataDir": state, "routes": []object{{"dst": "0.0.0.0/0"}},
			"ranges": [][]object{{{"subnet": "169.254.172.0/22"}}},
		},
		"pluginLogFile": "stderr", "pluginLogLevel": "Error",
	}
	return callSystem{"egress-cni of AWS", "egress-cni-plugin", lab,
		cycle(pod.Path(), podContainer, stdin(s, own, pod, podIPv6+"/128"), addPlugin, "", delPlugin),
		func() error { return deleteLink(pod.Namespace, "v4if0") }}
}

// deleteLink deletes a link that goes with its namespace otherwise.
func deleteLink(n *nettest.Namespace, name string) error {
	link, err := n.Netlink().LinkByName(name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err == nil {
		err = n.Netlink().LinkDel(link)
	}
	if err != nil {
		return fmt.Errorf("delete link %s: %w", name, err)
	}
	return nil
}
