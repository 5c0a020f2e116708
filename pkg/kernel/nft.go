package kernel

import (
	"errors"
	"fmt"
	"reflect"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// An nf_tables expression reads and writes 4-byte registers. NFT_REG_1 to 4 name
// them by four, NFT_REG32_00 (8) and up one by one; a concatenation of an
// address and a link's name needs the second of them to begin behind the first.
const (
	reg1         = 1
	regBehindIP4 = 9 // NFT_REG32_01
	regBehindIP6 = 2 // NFT_REG_2, which is NFT_REG32_04
)

// etherSource loads the link-layer source address of a packet (IEEE 802.3).
func etherSource(register uint32) *expr.Payload {
	return &expr.Payload{DestRegister: register, Base: expr.PayloadBaseLLHeader, Offset: 6, Len: 6}
}

// ifNameKey is a link's name as nf_tables compares it: 16 bytes, NUL-padded.
func ifNameKey(name string) []byte {
	key := make([]byte, 16)
	copy(key, name)
	return key
}

// protocol is `meta nfproto ipv4` or ipv6: in an inet table both families pass.
func protocol(nfproto byte) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: reg1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg1, Data: []byte{nfproto}},
	}
}

// address loads the source or destination address of a packet.
func address(offset, length uint32) *expr.Payload {
	return &expr.Payload{DestRegister: reg1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: length}
}

// Where the addresses stand in the headers (RFC 791, RFC 8200).
func ip4Source() *expr.Payload { return address(12, 4) }
func ip4Dest() *expr.Payload   { return address(16, 4) }
func ip6Source() *expr.Payload { return address(8, 16) }
func ip6Dest() *expr.Payload   { return address(24, 16) }

func equals(data []byte) *expr.Cmp {
	return &expr.Cmp{Op: expr.CmpOpEq, Register: reg1, Data: data}
}

func verdict(kind expr.VerdictKind) *expr.Verdict { return &expr.Verdict{Kind: kind} }

// sameRules reports whether a chain has exactly these rules, whatever they have counted.
func sameRules(want [][]expr.Any, have []*nftables.Rule) bool {
	return slices.EqualFunc(want, have, func(w []expr.Any, h *nftables.Rule) bool {
		return slices.EqualFunc(w, h.Exprs, func(a, b expr.Any) bool {
			_, counts := a.(*expr.Counter)
			_, counted := b.(*expr.Counter)
			return counts && counted || reflect.DeepEqual(a, b)
		})
	})
}

func (k *Kernel) hasTable(table *nftables.Table) (bool, error) {
	_, err := k.nft.ListTableOfFamily(table.Name, table.Family)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	return err == nil, err
}

// rulesIn reads the rules of a chain; a chain that is not there has none.
func (k *Kernel) rulesIn(table *nftables.Table, chain string) ([]*nftables.Rule, error) {
	rules, err := k.nft.GetRules(table, &nftables.Chain{Name: chain, Table: table})
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	return rules, err
}

func (k *Kernel) hasChain(chain *nftables.Chain) (bool, error) {
	_, err := k.nft.ListChain(chain.Table, chain.Name)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	return err == nil, err
}

// ErrChanged says that somebody has changed nf_tables between a read and the write that
// followed from it. Nothing has been written.
var ErrChanged = errors.New("somebody else has changed it meanwhile")

// transaction writes to nf_tables what f queues, all of it or nothing. f may read by k,
// whose socket is another: what is queued when a read fails is never sent, neither now nor
// with what somebody else sends. The error may be [ErrChanged].
func (k *Kernel) transaction(f func(tx *nftables.Conn) error) error {
	tx, err := k.openNFT(withRoom())
	if err != nil {
		return err
	}
	if err := f(tx); err != nil {
		return err
	}
	err = tx.Flush()
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("%w: %w", ErrChanged, err)
	}
	return err
}

// consistent repeats what reads until no transaction of anybody's has come in between, and
// returns the number of the last one before. The kernel goes on with a dump from where it
// was, whatever has moved meanwhile, and only flags it (NLM_F_DUMP_INTR, which the library
// does not look at); and one dump may be of before and the next of after.
func (k *Kernel) consistent(read func() error) (generation uint32, err error) {
	const tries = 16
	for range tries {
		before, err := k.generation()
		if err != nil {
			return 0, err
		}
		if err := read(); err != nil {
			return 0, err
		}
		after, err := k.generation()
		if err != nil || before == after {
			return after, err
		}
	}
	return 0, fmt.Errorf("nf_tables has changed during each of %d attempts to read it, last by %s: %w", tries, k.lastWriter(), unix.EBUSY)
}

// generation returns the number of the last transaction of anybody's.
func (k *Kernel) generation() (uint32, error) {
	gen, err := k.nft.GetGen()
	if err != nil {
		return 0, fmt.Errorf("read the generation of nf_tables: %w", err)
	}
	return gen.ID, nil
}

// lastWriter names the process that has written to nf_tables last.
func (k *Kernel) lastWriter() string {
	gen, err := k.nft.GetGen()
	if err != nil {
		return "an unknown process"
	}
	return fmt.Sprintf("%s (pid %d)", gen.ProcComm, gen.ProcPID)
}

// setRules makes a chain's rules exactly these.
func setRules(tx *nftables.Conn, chain *nftables.Chain, rules [][]expr.Any) {
	tx.FlushChain(chain)
	for _, exprs := range rules {
		tx.AddRule(&nftables.Rule{Table: chain.Table, Chain: chain, Exprs: exprs})
	}
}

// set describes a set or map; big-endian keys make nft print addresses as such.
func set(table *nftables.Table, name string, key nftables.SetDatatype) *nftables.Set {
	return &nftables.Set{Table: table, Name: name, KeyType: key, KeyByteOrder: binaryutil.BigEndian}
}
