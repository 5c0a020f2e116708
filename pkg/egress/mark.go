package egress

import "iter"

// Marks yields the marks that a mask has for links, lowest first. The highest
// value, the mask itself, is that of packets that are none of ours.
func Marks(mask uint32) iter.Seq[uint32] {
	return func(yield func(uint32) bool) {
		lowest := mask & -mask
		for mark := lowest; mark != mask; mark += lowest {
			if !yield(mark) {
				return
			}
		}
	}
}
