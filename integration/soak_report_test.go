//go:build soak

package integration

import (
	"fmt"
	"io"
	"math"
	"slices"
	"time"
)

// soakResult is what one system has done.
type soakResult struct {
	system                           string
	pods, adds, kills                int
	seen, early, wrong, bare, former uint64
	refused, plainLost               uint64
	first                            []time.Duration // from a pod's first instruction to its first right packet, of each family
	never                            int             // families of pods of which no right packet has been seen
	disturbances                     []*disturbance
	healed                           []time.Duration
	unhealed, disturbed              int
}

func (s *soak) result() soakResult {
	r := soakResult{
		system: s.system.name, pods: len(s.pods), adds: int(s.refused.Load()), kills: int(s.kills.Load()),
		seen: s.world.seen.Load(), early: s.world.early.Load(), wrong: s.world.wrong.Load(), bare: s.world.bare.Load(), former: s.world.former.Load(), disturbances: s.disturbances,
	}
	for _, f := range s.pods {
		begun := f.begun.Load()
		if begun == 0 {
			continue
		}
		annotated, plain := f.refused()
		r.refused += annotated
		r.plainLost += plain
		for family, egress := range f.egress {
			if !egress.IsValid() {
				continue
			}
			first := int64(0)
			for i := range streamsOfFamily {
				if at := f.streams[family*streamsOfFamily+i].first.Load(); at != 0 && (first == 0 || at < first) {
					first = at
				}
			}
			if first == 0 {
				r.never++
				continue
			}
			delay := time.Duration(first - begun)
			r.first = append(r.first, delay)
			if delay > 50*time.Millisecond {
				s.diary.write("%s, IPv%d: its first right packet came %v after its ADD, which ended at %.3f ms", f, 4+2*family, delay, float64(begun)/1e6)
			}
		}
	}
	for _, d := range s.disturbances {
		r.healed = append(r.healed, d.healed...)
		r.unhealed += d.unhealed
		r.disturbed += d.count
	}
	return r
}

// quantile of durations, as text.
func quantile(all []time.Duration, q float64) string {
	if len(all) == 0 {
		return "–"
	}
	all = slices.Sorted(slices.Values(all))
	d := all[max(0, int(math.Ceil(q*float64(len(all))))-1)]
	switch {
	case d < 10*time.Millisecond:
		return fmt.Sprintf("%.2f", d.Seconds()*1e3)
	case d < 100*time.Millisecond:
		return fmt.Sprintf("%.1f", d.Seconds()*1e3)
	}
	return grouped(uint64(d.Milliseconds()))
}

// grouped writes 1,234,567.
func grouped(n uint64) string {
	if n < 1000 {
		return fmt.Sprint(n)
	}
	return fmt.Sprintf("%s,%03d", grouped(n/1000), n%1000)
}

// printSoak prints Markdown.
func printSoak(w io.Writer, results []soakResult) {
	fmt.Fprint(w, "\n| system | packets | wrong | refused | first right packet, ms: median · p99 · max | heal, ms: median · p99 · max |\n| --- | ---: | ---: | ---: | ---: | ---: |\n")
	for _, r := range results {
		heal := quantile(r.healed, 0.5) + " · " + quantile(r.healed, 0.99) + " · " + quantile(r.healed, 1)
		if r.unhealed > 0 {
			heal = fmt.Sprintf("%s of %d not repaired", grouped(uint64(r.unhealed)), r.disturbed)
		}
		fmt.Fprintf(w, "| %s | %s | %s | %s | %s · %s · %s | %s |\n", r.system, grouped(r.seen), grouped(r.wrong), grouped(r.refused),
			quantile(r.first, 0.5), quantile(r.first, 0.99), quantile(r.first, 1), heal)
	}
	for i, r := range results {
		fmt.Fprintf(w, "\n%s: %s pods, of which the ADD of %d was refused or killed, %d calls killed; %s packets before an ADD had returned, which are not judged; "+
			"%s packets of plain pods lost; %d times a pod has ended before a right packet of an address family was seen.\n",
			r.system, grouped(uint64(r.pods)), r.adds, r.kills, grouped(r.early), grouped(r.plainLost), r.never)
		if i > 0 {
			continue
		}
		fmt.Fprintf(w, "Beside these, %s packets of pods that no watcher knew left by their link with another address while the table inet egress_ip was deleted, and %s wrongly while commit 04f183a was in charge.\n",
			grouped(r.bare), grouped(r.former))
		fmt.Fprint(w, "\n| disturbance | times | wrong | while the table was deleted | heal, ms: median · max |\n| --- | ---: | ---: | ---: | ---: |\n")
		for _, d := range r.disturbances {
			fmt.Fprintf(w, "| %s | %d | %s | %s | %s · %s |\n", d.name, d.count, grouped(d.wrong), grouped(d.bare), quantile(d.healed, 0.5), quantile(d.healed, 1))
		}
	}
}
