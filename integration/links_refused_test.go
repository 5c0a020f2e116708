package integration

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestLinksRefused: a pod that asks for a link that cannot carry egress does not start, and is told why.
func TestLinksRefused(t *testing.T) {
	t.Parallel()
	port := bridgeLink()
	port.name, port.create = "port1", onNode("link add br7 up type bridge", "link set port1 up master br7")
	testLinksRefused(t, map[string]refusedLink{"port of a bridge": {port, "br7"}})
}

// refusedLink is a link that nothing leaves by, or that answers do not arrive by.
type refusedLink struct {
	linkKind
	because string // is in the message
}

func testLinksRefused(t *testing.T, links map[string]refusedLink) {
	for name, link := range links {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLinkTest(t, link.linkKind)
			for _, a := range []annotations{address(linkPod4 + "," + linkPod6), {"egress-ip.cni/link": l.name}} {
				_, err := l.pod.call(t, "ADD", a)
				require.ErrorContains(t, err, l.name)
				require.ErrorContains(t, err, link.because)
			}
			l.requireNoAttachment(t)
		})
	}
}
