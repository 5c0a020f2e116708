package status_test

import (
	"bytes"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/egress-ip/egress-ip/pkg/status"
	"github.com/stretchr/testify/require"
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// now is when the tests look.
var now = time.Date(2026, 3, 14, 15, 9, 26, 0, time.UTC)

func enp7s0() status.Link {
	return status.Link{
		Name: "enp7s0", State: status.LinkUp, Index: 134, Table: 1134, Pods: 1,
		Defaults: []string{"default via 192.168.124.1", "default via fd00:124::1"},
	}
}

// shop is one address of the pod payments/shop on enp7s0.
func shop(address, egress string) status.Pod {
	return status.Pod{
		Namespace: "payments", Name: "shop-7d9f8", ContainerID: "4f1c2a9be07d55e1", Interface: "eth0",
		Address: addr(address), EgressAddress: addr(egress), Link: "enp7s0",
		Origin: status.OriginAnnotation, Since: now.Add(-3*time.Hour - 12*time.Minute - 5*time.Second), Sent: &status.Counter{Packets: 1234, Bytes: 567890},
	}
}

// jail is a pod of a runtime without Kubernetes, on enp8s0.
func jail() status.Pod {
	return status.Pod{
		ContainerID: "0123456789abcdef0123456789abcdef", Interface: "eth0",
		Address: addr("10.244.1.6"), EgressAddress: addr("192.168.125.99"), Link: "enp8s0",
		Origin: "defaults[1]", Since: now.Add(-50 * time.Hour),
	}
}

func probe() *status.Probe {
	return &status.Probe{
		Links: []string{"eth0", "eth1"}, Source: addr("fe80::1234:5678:9abc"), Translated: addr("2603:1062:0:1:fe80:1234:5678:9abc"),
		In: status.Counter{Packets: 40, Bytes: 3200}, Out: status.Counter{Packets: 39, Bytes: 3120},
	}
}

// whole is a healthy node with a dual-stack pod and a probe table.
func whole() status.Status {
	return status.New(status.Status{
		Links: []status.Link{enp7s0()},
		Pods:  []status.Pod{shop("fd00:10:244::5", "fd00:124::99"), shop("10.244.1.5", "192.168.124.99")},
		Probe: probe(),
	})
}

// broken is a node on which nearly everything is wrong.
func broken() status.Status {
	up, down := enp7s0(), status.Link{Name: "enp8s0", State: status.LinkDown, Index: 135, Table: 1135, Pods: 1}
	up.Missing = []string{"route throw 10.96.0.0/12 table 1134"}
	down.Missing = []string{"route default dev if135 table 1135", "route 192.168.125.0/24 dev if135 table 1135"}
	pod := shop("10.244.1.5", "192.168.124.99")
	pod.Missing = []string{"rule 6000: from 10.244.1.5 lookup 1134"}
	late := shop("10.244.1.7", "192.168.124.98")
	late.Name, late.ContainerID, late.Since = "billing", "77", now.Add(-42*time.Second)
	p := probe()
	p.Missing = []string{"rules of table ip6 egress_ip_probe"}
	up.Pods = 2
	return status.New(status.Status{
		Links: []status.Link{down, up}, Pods: []status.Pod{pod, late, jail()}, Probe: p,
		Missing:    []string{"rule 5999: from all iif lo goto 6001", "sysctl net.ipv4.conf.all.src_valid_mark=1"},
		Unrecorded: []string{"rule 6000: from 10.244.1.9 lookup 1134"},
		Dropped:    []status.Drop{{Address: addr("10.244.1.7"), Link: "wg0", Counter: status.Counter{Packets: 12, Bytes: 720}, Seconds: 3}},
		Forged:     []status.Drop{{Address: addr("10.244.1.5"), Link: "veth7", Counter: status.Counter{Packets: 1, Bytes: 60}, Seconds: 80}},
	})
}

// closed is a node whose one fault is a link without carrier.
func closed() status.Status {
	link := enp7s0()
	link.State, link.Defaults = status.LinkNoCarrier, nil
	return status.New(status.Status{Links: []status.Link{link}, Pods: []status.Pod{shop("10.244.1.5", "192.168.124.99")}})
}

// requireGolden compares with a file of testdata.
func requireGolden(t *testing.T, name string, have []byte) {
	t.Helper()
	want, err := os.ReadFile(filepath.Join("testdata", name))
	require.NoError(t, err)
	require.Equal(t, string(want), string(have))
}

func text(t *testing.T, s status.Status) []byte {
	t.Helper()
	var b bytes.Buffer
	require.NoError(t, s.WriteText(&b, now))
	return b.Bytes()
}

func jsonOf(t *testing.T, s status.Status) []byte {
	t.Helper()
	var b bytes.Buffer
	require.NoError(t, s.WriteJSON(&b))
	return b.Bytes()
}
