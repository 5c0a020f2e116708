package kernel

import (
	"encoding/binary"
	"math"
	"slices"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// The filters are classic BPF programs: the kernel runs them on each message
// before it is put in the socket's queue, and wakes nobody for one that fails.

// Where things stand in a message (linux/netlink.h, linux/rtnetlink.h,
// linux/netfilter/nfnetlink.h): a header of 16 bytes begins with the length, as 4
// bytes in the machine's order, and the type, as 2.
const (
	messageType = 4
	routeTable  = 16 + 4 // behind the header is an rtmsg; the table is its fifth byte
	nftTable    = 16 + 8 // behind the header are an nfgenmsg and the first attribute's header

	acceptWhole = math.MaxUint32 // so many bytes
)

// routeFilter leaves out routes of table local, which say no more than addresses do.
func routeFilter() []bpf.Instruction {
	return []bpf.Instruction{
		bpf.LoadAbsolute{Off: messageType + lowByte(2), Size: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.RTM_NEWROUTE, SkipTrue: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.RTM_DELROUTE, SkipTrue: 2},
		bpf.LoadAbsolute{Off: routeTable, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.RT_TABLE_LOCAL, SkipTrue: 1},
		bpf.RetConstant{Val: acceptWhole},
		bpf.RetConstant{Val: 0},
	}
}

// nftFilter leaves out the packets of events in which no table is named as ours
// are, or as the one of the same purpose is; the first 8 letters count.
//
// A transaction's events come several to a packet, of several tables perhaps: the
// last of them may be ours. BPF has no loops, so there is a copy of the code for
// each message. With pages of 4 KiB a packet has no more than these; one that has
// is accepted.
func nftFilter() []bpf.Instruction {
	const messages = 100
	var one []bpf.Instruction
	seen := map[string]bool{}
	for _, table := range []string{egressTable.Name, probeTable.Name, foreignProbeTable} {
		if name := table[:8]; !seen[name] {
			seen[name] = true
			one = append(one, acceptTable(name)...)
		}
	}
	one = append(one, nextMessage()...)
	return append(slices.Repeat(one, messages), bpf.RetConstant{Val: acceptWhole})
}

// acceptTable accepts the packet if the table of the message at X is called so.
// That is the first attribute of every message of nf_tables; but NFT_MSG_NEWGEN,
// which ends a transaction, has a number there.
func acceptTable(name string) []bpf.Instruction {
	return []bpf.Instruction{
		bpf.LoadIndirect{Off: nftTable, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: binary.BigEndian.Uint32([]byte(name)), SkipTrue: 3},
		bpf.LoadIndirect{Off: nftTable + 4, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: binary.BigEndian.Uint32([]byte(name[4:])), SkipTrue: 1},
		bpf.RetConstant{Val: acceptWhole},
	}
}

// nextMessage adds the length of the message at X to X, up to a multiple of 4, and
// rejects the packet if that is its end.
func nextMessage() []bpf.Instruction {
	return []bpf.Instruction{
		bpf.StoreScratch{Src: bpf.RegX, N: 0},
		bpf.LoadIndirect{Off: lowByte(4) ^ 1, Size: 1}, // the byte beside it; a packet has no third
		bpf.ALUOpConstant{Op: bpf.ALUOpShiftLeft, Val: 8},
		bpf.StoreScratch{Src: bpf.RegA, N: 1},
		bpf.LoadIndirect{Off: lowByte(4), Size: 1},
		bpf.LoadScratch{Dst: bpf.RegX, N: 1},
		bpf.ALUOpX{Op: bpf.ALUOpOr},
		bpf.ALUOpConstant{Op: bpf.ALUOpAdd, Val: unix.NLMSG_ALIGNTO - 1},
		bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: math.MaxUint32 &^ (unix.NLMSG_ALIGNTO - 1)},
		bpf.LoadScratch{Dst: bpf.RegX, N: 0},
		bpf.ALUOpX{Op: bpf.ALUOpAdd},
		bpf.TAX{},
		bpf.LoadExtension{Num: bpf.ExtLen},
		bpf.JumpIfX{Cond: bpf.JumpGreaterThan, SkipTrue: 1},
		bpf.RetConstant{Val: 0},
	}
}

// lowByte is where, in a number of so many bytes in the machine's order, the byte
// of the least value is.
func lowByte(size uint32) uint32 {
	if binary.NativeEndian.Uint16([]byte{1, 0}) == 1 {
		return 0
	}
	return size - 1
}
