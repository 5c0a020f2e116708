package names

import (
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// dropTaken removes the tables whose number or name another file has: iproute2
// would show the one or the other, as the folder happens to be sorted, and take
// the name for either table.
func (f folders) dropTaken(names map[uint32]string) {
	ids, words := f.taken()
	maps.DeleteFunc(names, func(id uint32, name string) bool { return ids[id] || words[name] })
}

// taken returns the numbers and the names that are in files other than ours. A
// file that we cannot read is none to iproute2 either.
func (f folders) taken() (ids map[uint32]bool, words map[string]bool) {
	ids, words = map[uint32]bool{}, map[string]bool{}
	for _, folder := range f {
		files, _ := filepath.Glob(filepath.Join(folder, directory, "*.conf")) // the pattern is right
		for _, path := range append(files, filepath.Join(folder, "rt_tables")) {
			if filepath.Base(path) == fileName {
				continue // a distribution's is hidden by ours
			}
			text, _ := os.ReadFile(path)
			for line := range strings.Lines(string(text)) {
				if id, word, ok := parse(line); ok {
					ids[id], words[word] = true, true
				}
			}
		}
	}
	return ids, words
}

// parse reads `1134 name` or `0x46e name`, with or without a comment behind it.
func parse(line string) (id uint32, word string, ok bool) {
	fields := strings.Fields(line)
	if len(fields) < 2 {
		return 0, "", false
	}
	digits, base := fields[0], 10
	if hex, found := strings.CutPrefix(digits, "0x"); found {
		digits, base = hex, 16
	}
	n, err := strconv.ParseUint(digits, base, 32)
	return uint32(n), fields[1], err == nil
}
