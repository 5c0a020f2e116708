//go:build soak

package integration

import (
	"cmp"
	"fmt"
	"slices"
	"sync"
	"time"
)

// diary is what is done on the node, and the first wrong packets.
type diary struct {
	mu     sync.Mutex
	lines  []diaryLine
	wrong  []wrongPacket
	told   []diaryLine // the same, for all
	around []int       // of each of those: how many lines had been written before
}

type diaryLine struct {
	at   int64
	text string
}

// reign is a time in which packets are not egress-ip's to answer for, but told apart.
type reign struct {
	begin, end int64  // end 0: it goes on
	former     bool   // the former version is in charge; else somebody has deleted the nftables table
	held       string // the watcher's table then
}

// reigns are those so far.
type reigns struct {
	mu  sync.Mutex
	all []reign
}

func (r *reigns) begin(one reign) {
	r.mu.Lock()
	defer r.mu.Unlock()
	one.begin = now()
	r.all = append(r.all, one)
}

func (r *reigns) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all[len(r.all)-1].end = now()
}

// at is the reign of a moment, if there is one.
func (r *reigns) at(moment int64) (reign, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, one := range slices.Backward(r.all) {
		if one.begin <= moment && (one.end == 0 || moment <= one.end) {
			return one, true
		}
	}
	return reign{}, false
}

// mostWrong is how many wrong packets are described, of each disturbance the first ones, and mostTold how many with
// what was done around them.
const mostWrong, mostTold = 500, 5

func (d *diary) write(format string, args ...any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lines = append(d.lines, diaryLine{now(), fmt.Sprintf(format, args...)})
}

func (d *diary) report(w wrongPacket) {
	d.mu.Lock()
	defer d.mu.Unlock()
	// Of one disturbance a few will do.
	same := 0
	for _, lines := range d.around {
		if lines == len(d.lines) {
			same++
		}
	}
	if len(d.wrong) < mostWrong && same < 3 {
		d.wrong, d.around = append(d.wrong, w), append(d.around, len(d.lines))
		d.told = append(d.told, diaryLine{now(), "wrong: " + w.String()})
	}
}

// tell is what was done within a second of the first wrong packets.
func (d *diary) tell() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var b []byte
	for i, w := range d.wrong {
		b = fmt.Appendf(b, "\nwrong packet %d: %s; around it:\n", i+1, w)
		if i >= mostTold {
			continue
		}
		for _, line := range d.lines {
			if since := time.Duration(line.at - w.at); since.Abs() < time.Second {
				b = fmt.Appendf(b, "  %+10.3f ms  %s\n", float64(since)/1e6, line.text)
			}
		}
	}
	return string(b)
}

func (d *diary) all() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var b []byte
	for _, line := range slices.SortedStableFunc(slices.Values(slices.Concat(d.lines, d.told)), func(a, b diaryLine) int { return cmp.Compare(a.at, b.at) }) {
		b = fmt.Appendf(b, "%10.3f ms  %s\n", float64(line.at)/1e6, line.text)
	}
	return string(b)
}
