//go:build guest

package integration

import (
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	"github.com/mdlayher/netlink/nlenc"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// changes is what happens to the node's links, addresses, routes, rules and nftables, as the kernel tells
// it, by who has done it. What egress-ip removes while it repairs something counts as nobody's.
type changes struct {
	mu     sync.Mutex
	others []noticed // what somebody else has done
	own    []noticed // what egress-ip has written

	up map[int32]uint32 // of which links, by ifindex, it is known whether they are up
}

// noticed is one change, for a person to read.
type noticed struct {
	at   time.Time
	what string
}

// watchChanges records from now on.
func watchChanges(t *testing.T) *changes {
	t.Helper()
	c := &changes{up: map[int32]uint32{}}
	c.listen(t, unix.NETLINK_ROUTE, c.route, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
		unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE)
	c.listen(t, unix.NETLINK_NETFILTER, c.nftables, unix.NFNLGRP_NFTABLES)
	return c
}

// listen has each message judged until the test ends.
func (c *changes) listen(t *testing.T, family int, judge func(netlink.Message) (what string, own bool), groups ...uint32) {
	t.Helper()
	conn, err := netlink.Dial(family, nil)
	require.NoError(t, err)
	require.NoError(t, conn.SetReadBuffer(16<<20))
	for _, group := range groups {
		require.NoError(t, conn.JoinGroup(group))
	}
	var listening sync.WaitGroup
	t.Cleanup(func() { conn.Close(); listening.Wait() })
	listening.Go(func() {
		for {
			messages, err := conn.Receive()
			if err != nil {
				return
			}
			c.add(messages, judge)
		}
	})
}

func (c *changes) add(messages []netlink.Message, judge func(netlink.Message) (string, bool)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, m := range messages {
		what, own := judge(m)
		switch {
		case what == "":
		case own:
			c.own = append(c.own, noticed{time.Now(), what})
		default:
			c.others = append(c.others, noticed{time.Now(), what})
		}
	}
}

// since is what others have done, and what egress-ip has written, from then on.
func (c *changes) since(from time.Time) (others, own []noticed) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return after(c.others, from), after(c.own, from)
}

func after(all []noticed, from time.Time) []noticed {
	i := len(all)
	for i > 0 && all[i-1].at.After(from) {
		i--
	}
	return append([]noticed{}, all[i:]...)
}

// route judges a message about links, addresses, routes or rules.
func (c *changes) route(m netlink.Message) (what string, own bool) {
	removes := ""
	switch m.Header.Type {
	case unix.RTM_DELLINK, unix.RTM_DELADDR, unix.RTM_DELROUTE, unix.RTM_DELRULE:
		removes = "no "
	}
	switch m.Header.Type {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		return c.link(m, removes), false
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		address := attributes(m.Data, unix.SizeofIfAddrmsg).address(unix.IFA_ADDRESS)
		own := removes == "" && (address == egress4 || address == egress6)
		return removes + "address " + address, own
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		return routeChange(m.Data, removes)
	case unix.RTM_NEWRULE, unix.RTM_DELRULE:
		priority := attributes(m.Data, unix.SizeofRtMsg).number(fraPriority)
		return fmt.Sprintf("%srule %d", removes, priority), removes == "" && 5998 <= priority && priority <= 6001
	}
	return "", false
}

// fraPriority is FRA_PRIORITY.
const fraPriority = 6

// link counts whether a link is up and has a carrier, and nothing else.
func (c *changes) link(m netlink.Message, removes string) string {
	index := nlenc.Int32(m.Data[4:8])
	flags := nlenc.Uint32(m.Data[8:12]) & (unix.IFF_UP | unix.IFF_LOWER_UP)
	name := attributes(m.Data, unix.SizeofIfInfomsg).text(unix.IFLA_IFNAME)
	before, known := c.up[index]
	c.up[index] = flags
	if removes == "" && (!known || before == flags) {
		return ""
	}
	return fmt.Sprintf("%slink %s %#x", removes, name, flags)
}

// routeChange leaves out the kernel's table of local addresses, and what is removed from a link's table: by the kernel, as
// it removes the same from main, or by egress-ip.
func routeChange(data []byte, removes string) (what string, own bool) {
	a := attributes(data, unix.SizeofRtMsg)
	table := a.number(unix.RTA_TABLE)
	switch {
	case table == unix.RT_TABLE_LOCAL, table >= 1000 && removes != "":
		return "", false
	case table >= 1000:
		return fmt.Sprintf("route in table %d", table), true
	}
	return fmt.Sprintf("%sroute to %s/%d in table %d", removes, a.address(unix.RTA_DST), data[1], table), false
}

// nftables judges a message about tables, and what is in them.
func (c *changes) nftables(m netlink.Message) (what string, own bool) {
	const headerLength = 4
	kind := uint16(m.Header.Type) & 0xff
	if kind == unix.NFT_MSG_NEWGEN {
		return "", false
	}
	const tableName = 1 // in every kind of message
	table := attributes(m.Data, headerLength).text(tableName)
	what = fmt.Sprintf("nftables message %d, table %s", kind, table)
	if !strings.HasPrefix(table, "egress_ip") {
		return what, false
	}
	if table == "egress_ip_held" { // nobody else can write there
		return "", false
	}
	switch kind {
	case unix.NFT_MSG_NEWTABLE, unix.NFT_MSG_NEWCHAIN, unix.NFT_MSG_NEWRULE, unix.NFT_MSG_NEWSET, unix.NFT_MSG_NEWSETELEM:
		return what, true
	case unix.NFT_MSG_DELTABLE:
		return what, false
	}
	return "", false
}

// attributeList is what follows a message's header.
type attributeList []netlink.Attribute

func attributes(data []byte, header int) attributeList {
	if len(data) < header {
		return nil
	}
	all, _ := netlink.UnmarshalAttributes(data[header:]) // of what cannot be read there is none
	return all
}

func (l attributeList) find(kind uint16) []byte {
	for _, a := range l {
		if a.Type == kind {
			return a.Data
		}
	}
	return nil
}

func (l attributeList) text(kind uint16) string { return nlenc.String(l.find(kind)) }

func (l attributeList) number(kind uint16) uint32 {
	if data := l.find(kind); len(data) == 4 {
		return nlenc.Uint32(data)
	}
	return 0
}

func (l attributeList) address(kind uint16) string {
	if a, ok := netip.AddrFromSlice(l.find(kind)); ok {
		return a.String()
	}
	return "default"
}
