package integration

import (
	"encoding/binary"
	"testing"

	"github.com/mdlayher/netlink"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// sizeofNfgenmsg is that of struct nfgenmsg (linux/netfilter/nfnetlink.h).
const sizeofNfgenmsg = 4

// generation is the number of transactions that nftables has seen on the node. (The
// library's own request waits with select(2), which knows only the first 1,024 files
// of a process; tests side by side have more.)
func (c *cluster) generation(t *testing.T) uint32 {
	t.Helper()
	var conn *netlink.Conn
	var err error
	c.Node.Do(t, func() { conn, err = netlink.Dial(unix.NETLINK_NETFILTER, nil) })
	require.NoError(t, err)
	defer conn.Close()
	replies, err := conn.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETGEN, Flags: netlink.Request},
		Data:   make([]byte, sizeofNfgenmsg),
	})
	require.NoError(t, err)
	require.NotEmpty(t, replies)
	attributes, err := netlink.UnmarshalAttributes(replies[0].Data[sizeofNfgenmsg:])
	require.NoError(t, err)
	for _, a := range attributes {
		if a.Type == unix.NFTA_GEN_ID {
			return binary.BigEndian.Uint32(a.Data)
		}
	}
	t.Fatal("nftables names no generation")
	return 0
}
