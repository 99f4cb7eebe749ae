package demo

import (
	"fmt"
	"slices"
	"time"
)

// nobody stands for the node of an operation that failed.
const nobody = -1

// pauseFloor is how long no write may be acknowledged, without a change of master, before that counts as an outage. A shorter
// pause may be due to a busy machine.
const pauseFloor = 500 * time.Millisecond

// keptGaps is how many outages are kept.
const keptGaps = 100

// answer is one acknowledged write. Times are durations since the start of the workload.
type answer struct {
	sent, done time.Duration
	node       int
	timeline   uint32 // of the node at that time; each promotion raises it
}

// gap is a period without acknowledged writes.
type gap struct {
	before, after answer // the last write before it and the first write after it
}

// moved reports whether the write that ended the gap went to another node or to a later timeline.
func (g gap) moved() bool {
	return g.before.node != g.after.node || g.before.timeline != g.after.timeline
}

// gaps finds the outages in a stream of answers. An outage is a gap of any length at which the node or the timeline changes,
// and a gap of at least pauseFloor on one master. The result depends on the answers alone.
type gaps struct {
	last  answer // zero before the first answer
	found []gap  // the latest outages, oldest first
}

// add takes the next answer. If the answer ended an outage, add returns the outage. An answer is astray if its node had been
// superseded.
func (g *gaps) add(a answer) (found gap, ended, astray bool) {
	if a.timeline < g.last.timeline {
		return gap{}, false, true
	}
	found = gap{g.last, a}
	if g.last.timeline != 0 && (found.moved() || a.done-g.last.done >= pauseFloor) {
		g.found = append(g.found, found)
		g.found = g.found[max(0, len(g.found)-keptGaps):]
		ended = true
	}
	a.done = max(a.done, g.last.done)
	g.last = a
	return found, ended, false
}

// injury is a fault that the demo caused.
type injury struct {
	kind string
	node int
	at   time.Duration
}

// outage is a period in which the application could not write.
type outage struct {
	kind         string
	gap          gap
	length       time.Duration
	cluster      time.Duration // how long no node accepted the prober's writes, if clusterKnown
	afterAccept  time.Duration // the part of length after a node accepted them again, if clusterKnown
	clusterKnown bool
}

// Kinds of outages that the demo did not cause.
const (
	kindFailover = "failover"
	kindPause    = "pause"
)

// outagesOf combines the gaps of the application, the gaps of the prober, and the faults of the demo.
func outagesOf(felt, seen []gap, injuries []injury) []outage {
	outages := make([]outage, 0, len(felt))
	for _, f := range felt {
		o := outage{kind: f.kind(injuries), gap: f, length: f.after.done - f.before.done}
		for _, s := range seen {
			same := s.after.node == f.after.node && s.after.timeline == f.after.timeline
			if accepted := s.accepted(); same && s.before.done < f.after.done && f.before.done < accepted {
				o.clusterKnown = true
				o.cluster = accepted - s.before.done
				o.afterAccept = max(f.after.done-accepted, 0) // negative if the prober was later than the application
			}
		}
		outages = append(outages, o)
	}
	return outages
}

// injuryTail is how long a node may acknowledge writes after its fault began, as it does during a fast stop.
const injuryTail = 3 * time.Second

// accepted returns when a node accepted writes again after a gap of the prober. A new master accepted them at about the time
// when the prober sent its first successful write. A master that was there before accepted them when it answered.
func (g gap) accepted() time.Duration {
	if g.moved() {
		return g.after.sent
	}
	return g.after.done
}

// kind returns the last fault of the old master before the end of the gap, unless the fault was long before the gap. Without
// such a fault it returns kindFailover or kindPause.
func (g gap) kind(injuries []injury) string {
	for _, i := range slices.Backward(injuries) {
		if i.node == g.before.node && g.before.done-injuryTail <= i.at && i.at <= g.after.done {
			return i.kind
		}
	}
	if g.moved() {
		return kindFailover
	}
	return kindPause
}

// describe returns a sentence about the outage.
func (o outage) describe(nodes []string) string {
	where := "on " + nodes[o.gap.after.node]
	if o.gap.before.node != o.gap.after.node {
		where = nodes[o.gap.before.node] + " → " + nodes[o.gap.after.node]
	}
	text := fmt.Sprintf("application writes again after %s, %s", Millis(o.length), where)
	if o.clusterKnown {
		text += fmt.Sprintf(" (cluster: %s)", Millis(o.cluster))
	}
	return text
}
