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
	before, err := k.generation()
	for range tries {
		if err == nil {
			err = read()
		}
		if err != nil {
			return 0, err
		}
		if generation, err = k.generation(); err == nil && generation == before {
			return generation, nil
		}
		before = generation
	}
	writer := "an unknown process"
	if gen, err := k.nft.GetGen(); err == nil {
		writer = fmt.Sprintf("%s (pid %d)", gen.ProcComm, gen.ProcPID)
	}
	return 0, fmt.Errorf("nf_tables has changed during each of %d attempts to read it, last by %s: %w", tries, writer, unix.EBUSY)
}

// generation returns the number of the last transaction of anybody's.
func (k *Kernel) generation() (uint32, error) {
	gen, err := k.nft.GetGen()
	if err != nil {
		return 0, fmt.Errorf("read the generation of nf_tables: %w", err)
	}
	return gen.ID, nil
}

// exists tells that something does not exist from that it cannot be read.
func exists(err error) (bool, error) {
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	return err == nil, err
}

func (k *Kernel) hasTable(table *nftables.Table) (bool, error) {
	_, err := k.nft.ListTableOfFamily(table.Name, table.Family)
	return exists(err)
}

// deleteTable deletes a table, if it exists: adding what exists is no error.
func deleteTable(tx *nftables.Conn, table *nftables.Table) {
	tx.AddTable(table)
	tx.DelTable(table)
}

// namesIn returns the names of a table's chains and sets.
func (k *Kernel) namesIn(table *nftables.Table) (names []string, err error) {
	chains, err := k.nft.ListChainsOfTableFamily(table.Family)
	if err != nil {
		return nil, fmt.Errorf("read chains: %w", k.nftError(err))
	}
	for _, c := range chains {
		if c.Table.Name == table.Name {
			names = append(names, c.Name)
		}
	}
	sets, err := k.nft.GetSets(table)
	if _, err = exists(err); err != nil {
		return nil, fmt.Errorf("read the sets of table %s: %w", table.Name, k.nftError(err))
	}
	for _, s := range sets {
		names = append(names, s.Name)
	}
	return names, nil
}

// setRules makes a chain's rules exactly these.
func setRules(tx *nftables.Conn, chain *nftables.Chain, rules [][]expr.Any) {
	tx.FlushChain(chain)
	for _, r := range rules {
		tx.AddRule(&nftables.Rule{Table: chain.Table, Chain: chain, Exprs: r})
	}
}

// rulesIn reads the rules of a chain; one that does not exist has none.
func (k *Kernel) rulesIn(chain *nftables.Chain) ([]*nftables.Rule, error) {
	rules, err := k.nft.GetRules(chain.Table, chain)
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	return rules, err
}

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

// isHooked reports whether packets come to a chain as they should.
func (k *Kernel) isHooked(want *nftables.Chain) (bool, error) {
	have, err := k.nft.ListChain(want.Table, want.Name)
	if ok, err := exists(err); !ok {
		return false, err
	}
	return sameHook(want, have), nil
}

// sameHook reports whether packets come to a chain from where, when and with what
// policy they do to the one that is wanted.
func sameHook(want, have *nftables.Chain) bool {
	if want.Hooknum == nil || have.Hooknum == nil {
		return want.Hooknum == have.Hooknum
	}
	return *want.Hooknum == *have.Hooknum && have.Priority != nil && *want.Priority == *have.Priority &&
		want.Type == have.Type && have.Policy != nil && *have.Policy == nftables.ChainPolicyAccept
}

// inTable puts sets into a table. Big-endian keys make nft print addresses as such; marks and
// links are in the host's order.
func inTable(table *nftables.Table, sets []*nftables.Set) []*nftables.Set {
	for _, s := range sets {
		s.Table = table
		if s.KeyByteOrder = binaryutil.BigEndian; s.KeyType == nftables.TypeMark || s.KeyType == nftables.TypeIFIndex {
			s.KeyByteOrder = binaryutil.NativeEndian
		}
	}
	return sets
}
