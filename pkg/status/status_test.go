package status_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/egress-ip/egress-ip/pkg/status"
	"github.com/stretchr/testify/require"
)

// TestHealthy: one thing at a time makes a node unhealthy.
func TestHealthy(t *testing.T) {
	t.Parallel()
	require.True(t, whole().Healthy)
	for name, spoil := range map[string]func(s *status.Status){
		"missing":          func(s *status.Status) { s.Missing = []string{"rule"} },
		"unrecorded":       func(s *status.Status) { s.Unrecorded = []string{"rule"} },
		"in the way":       func(s *status.Status) { s.InTheWay = []string{"somebody else's IPv4 route"} },
		"unread":           func(s *status.Status) { s.Unread = []string{"table inet egress_ip: operation not permitted"} },
		"link's missing":   func(s *status.Status) { s.Links[0].Missing = []string{"route"} },
		"pod's missing":    func(s *status.Status) { s.Pods[1].Missing = []string{"rule"} },
		"probe's missing":  func(s *status.Status) { s.Probe.Missing = []string{"rule"} },
		"link down":        func(s *status.Status) { s.Links[0].State = status.LinkDown },
		"link absent":      func(s *status.Status) { s.Links[0].State = status.LinkAbsent },
		"link, no carrier": func(s *status.Status) { s.Links[0].State = status.LinkNoCarrier },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := whole()
			spoil(&s)
			require.False(t, status.New(s).Healthy)
		})
	}
}

// TestOrder: what comes in any order is shown in one.
func TestOrder(t *testing.T) {
	t.Parallel()
	pod := func(namespace, name, address, id, ifName string) status.Pod {
		return status.Pod{Namespace: namespace, Name: name, Address: addr(address), ContainerID: id, Interface: ifName}
	}
	pods := []status.Pod{
		pod("a", "y", "10.0.0.9", "1", "eth0"),
		pod("b", "x", "9.0.0.1", "1", "eth0"),
		pod("b", "x", "10.0.0.1", "1", "eth0"),
		pod("b", "x", "10.0.0.1", "2", "eth0"),
		pod("b", "x", "10.0.0.1", "2", "net1"),
		pod("b", "x", "fd00::1", "1", "eth0"),
	}
	links := []status.Link{{Name: "enp7s0", Index: 9}, {Name: "enp8s0", Index: 3}, {Name: "enp8s0", Index: 7}}
	podsBack, linksBack := slices.Clone(pods), slices.Clone(links)
	slices.Reverse(podsBack)
	slices.Reverse(linksBack)
	require.Equal(t, status.New(status.Status{Pods: pods, Links: links}), status.New(status.Status{Pods: podsBack, Links: linksBack}))
	require.Equal(t, "y", status.New(status.Status{Pods: podsBack}).Pods[0].Name)
	require.Equal(t, addr("9.0.0.1"), status.New(status.Status{Pods: podsBack}).Pods[1].Address)
	require.Equal(t, "net1", podsBack[1].Interface, "the caller's list has changed")
}

// broke is a writer that takes nothing.
type broke struct{}

var errBroke = errors.New("no space left")

func (broke) Write([]byte) (int, error) { return 0, errBroke }

// TestWriteFails: output that did not arrive is an error.
func TestWriteFails(t *testing.T) {
	t.Parallel()
	s := whole()
	require.ErrorIs(t, s.WriteText(broke{}, time.Now()), errBroke)
	require.ErrorIs(t, s.WriteJSON(broke{}), errBroke)
	require.ErrorIs(t, s.WritePrometheus(broke{}, "v1"), errBroke)
}
