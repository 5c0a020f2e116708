package main

import (
	"context"
	"fmt"
	"slices"
	"time"
)

const (
	// burstTime is about how long one measurement of one lane takes: short, so that
	// all lanes of a round see the same machine.
	burstTime = time.Millisecond
	// mostPackets bounds a burst.
	mostPackets = 1000
	// newFlows is how many connections a lane opens before they are dropped.
	newFlows = 8000
	// restTime is for the kernel to free dropped connections.
	restTime = 20 * time.Millisecond
)

// contest measures lanes in turn, as many rounds as asked for, and returns each
// lane's nanoseconds a packet, round by round. Each round begins with another lane.
func contest(ctx context.Context, lanes []*lane, rounds int) ([][]float64, error) {
	results := make([][]float64, len(lanes))
	err := onOneCore(func() error {
		for _, l := range lanes {
			if err := l.calibrate(); err != nil {
				return err
			}
		}
		for round := range rounds {
			if err := ctx.Err(); err != nil {
				return err
			}
			if slices.ContainsFunc(lanes, (*lane).exhausted) {
				if err := rest(lanes); err != nil {
					return err
				}
			}
			for k := range lanes {
				i := (round + k) % len(lanes)
				ns, err := lanes[i].burst()
				if err != nil {
					return err
				}
				results[i] = append(results[i], ns)
			}
		}
		return nil
	})
	return results, err
}

// rest drops the connections that new flows have left.
func rest(lanes []*lane) error {
	for _, l := range lanes {
		if err := l.node.forget(); err != nil {
			return err
		}
		l.next = 0
	}
	time.Sleep(restTime)
	return nil
}

// calibrate decides how many packets a burst is to have: each pod's as often as
// every other's.
func (l *lane) calibrate() error {
	pods := len(l.traffic.pods)
	l.warm, l.packets = pods, pods
	ns, err := l.burst()
	if err != nil {
		return err
	}
	packets := int(min(float64(burstTime)/ns, mostPackets))
	l.packets = max(packets/pods, 1) * pods
	l.warm = max(l.packets/8/pods, 1) * pods
	return nil
}

// exhausted reports whether there are new flows left for a burst.
func (l *lane) exhausted() bool {
	return l.traffic.newFlow && l.next+l.warm+l.packets > l.frames
}

// burst sends packets, after some that bring the caches up to date, and returns
// nanoseconds a packet. All that happens to a packet happens on this core before
// send returns, so the clock on the wall is the time of the core.
func (l *lane) burst() (float64, error) {
	before, err := l.arrived()
	if err != nil {
		return 0, err
	}
	var took time.Duration
	err = undisturbed(func() error {
		if err := l.send(l.warm); err != nil {
			return err
		}
		start := time.Now()
		err := l.send(l.packets)
		took = time.Since(start)
		return err
	})
	if err != nil {
		return 0, err
	}
	if err := l.wait(before + uint64(l.warm+l.packets)); err != nil {
		return 0, err
	}
	return float64(took.Nanoseconds()) / float64(l.packets), nil
}

// wait makes sure that the sink has got so many packets by now. As a rule it has;
// now and then the kernel leaves the last ones to a thread of its own.
func (l *lane) wait(packets uint64) error {
	if l.traffic.dropped {
		return nil
	}
	for deadline := time.Now().Add(time.Second); ; time.Sleep(time.Millisecond) {
		arrived, err := l.arrived()
		if err != nil || arrived >= packets {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s: %d packets of %s got lost", l.node.label, packets-arrived, l.traffic.family.name)
		}
	}
}

// send sends packets, the next ones where they are new flows.
func (l *lane) send(packets int) error {
	if l.traffic.newFlow {
		l.next += packets
		return l.sender.Send(l.next-packets, l.next)
	}
	for packets > 0 {
		n := min(packets, l.frames)
		if err := l.sender.Send(0, n); err != nil {
			return err
		}
		packets -= n
	}
	return nil
}
