package demo

import (
	"fmt"
	"slices"
	"time"
)

// nobody is the node of an operation that failed: nobody knows whether a write took effect.
const nobody = -1

// pauseFloor is how long one and the same master may be silent before that counts as an outage. Less is a busy machine.
const pauseFloor = 500 * time.Millisecond

// keptGaps is how many outages are remembered.
const keptGaps = 100

// answer is one acknowledged write; times are since the workload began.
type answer struct {
	sent, done time.Duration
	node       int
	timeline   uint32 // that the node wrote then; a promotion makes it higher
}

// gap is a time without acknowledged writes.
type gap struct {
	before, after answer // the last one before, the first one after
}

// moved reports whether another node, or one on a later timeline, ended the gap.
func (g gap) moved() bool {
	return g.before.node != g.after.node || g.before.timeline != g.after.timeline
}

// gaps finds the outages in a stream of answers: where the timeline changes, however short, and where one master is
// silent for long. It is a pure function of the answers.
type gaps struct {
	last  answer // zero before the first
	found []gap  // the latest, oldest first
}

// add takes the next answer, and returns the outage that it ended. It is astray if its node had been superseded.
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

// injury is a fault of ours.
type injury struct {
	kind string
	node int
	at   time.Duration
}

// outage is a time in which the application could not write, and what is known of it.
type outage struct {
	kind         string
	gap          gap
	length       time.Duration
	cluster      time.Duration // how long no node acknowledged the prober's writes, if it is known
	afterAccept  time.Duration // what of length was left when one did again
	clusterKnown bool
}

// Kinds of outages that are not our doing.
const (
	kindFailover = "failover"
	kindPause    = "pause"
)

// outagesOf puts what the application felt next to what the prober saw, and to our faults.
func outagesOf(felt, seen []gap, injuries []injury) []outage {
	outages := make([]outage, 0, len(felt))
	for _, f := range felt {
		o := outage{kind: f.kind(injuries), gap: f, length: f.after.done - f.before.done}
		for _, s := range seen {
			same := s.after.node == f.after.node && s.after.timeline == f.after.timeline
			if accepted := s.accepted(); same && s.before.done < f.after.done && f.before.done < accepted {
				o.clusterKnown = true
				o.cluster = accepted - s.before.done
				o.afterAccept = max(f.after.done-accepted, 0) // the prober may be a moment behind: then nothing was left
			}
		}
		outages = append(outages, o)
	}
	return outages
}

// injuryTail is for how long after a fault began its victim may go on to acknowledge writes: a shutdown in order.
const injuryTail = 3 * time.Second

// accepted is when, in a gap of the prober's, a node took writes again. A new master did so when it was sent the first one
// that it took, or a moment later; one and the same only when it answered.
func (g gap) accepted() time.Duration {
	if g.moved() {
		return g.after.sent
	}
	return g.after.done
}

// kind returns the last fault of the old master before the gap's end, if it was not long before the gap, or what else to
// call it.
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

// describe is the outage in words.
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
