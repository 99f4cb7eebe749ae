package workload

import "time"

const (
	// pauseFloor is how long no write may be acknowledged, without a change of master, before that counts as an outage. A
	// shorter pause may be due to a busy machine.
	pauseFloor = 500 * time.Millisecond

	// KeptOutages is how many outages a Ledger keeps.
	KeptOutages = 100
)

// Ack is an acknowledged write.
type Ack struct {
	Sent, Done time.Duration
	Node       int
	Timeline   uint32 // of the node at that time, from 1; each promotion raises it
}

// Gap is a period without acknowledged writes.
type Gap struct {
	Before, After Ack // the last write before it and the first write after it
}

// Moved reports whether the write that ended the gap went to another node or to a later timeline.
func (g Gap) Moved() bool {
	return g.Before.Node != g.After.Node || g.Before.Timeline != g.After.Timeline
}

// Length is the time from the acknowledgement of the last write before to that of the first write after.
func (g Gap) Length() time.Duration { return g.After.Done - g.Before.Done }

// accepted returns when a node accepted writes again after a gap of the prober. A new master accepted them at about the time
// when the prober sent its first successful write. A master that was there before accepted them when it answered.
func (g Gap) accepted() time.Duration {
	if g.Moved() {
		return g.After.Sent
	}
	return g.After.Done
}

// gaps finds the outages in a stream of writes. An outage is a gap of any length at which the node or the timeline changes,
// and a gap of at least pauseFloor on one master. The result depends on the writes alone.
type gaps struct {
	last  Ack           // zero before the first write
	since time.Duration // when the first write on the timeline of last was sent
	found []Gap         // the latest outages, oldest first
}

// supersedes reports whether a write on a later timeline is known that was sent before a was acknowledged.
func (g *gaps) supersedes(a Ack) bool { return a.Timeline < g.last.Timeline && a.Done > g.since }

// add takes the next write. If the write ended an outage, add returns the outage. A write on an earlier timeline than the
// last one changes nothing.
func (g *gaps) add(a Ack) (found Gap, ended bool) {
	if a.Timeline < g.last.Timeline {
		return Gap{}, false
	}
	if a.Timeline > g.last.Timeline {
		g.since = a.Sent
	}
	found = Gap{g.last, a}
	first := g.last.Timeline == 0
	if !first && (found.Moved() || found.Length() >= pauseFloor) {
		g.found = append(g.found, found)
		g.found = g.found[max(0, len(g.found)-KeptOutages):]
		ended = true
	}
	if !first {
		a.Done = max(a.Done, g.last.Done)
	}
	g.last = a
	return found, ended
}

// Outage is a period in which the application could not write.
type Outage struct {
	Gap
	Cluster      time.Duration // how long no node accepted the prober's writes, if ClusterKnown
	AfterAccept  time.Duration // the part of Length after a node accepted them again, if ClusterKnown
	ClusterKnown bool
}

// outageOf combines a gap of the application with the gaps of the prober.
func outageOf(application Gap, cluster []Gap) Outage {
	o := Outage{Gap: application}
	for _, c := range cluster {
		same := c.After.Node == o.After.Node && c.After.Timeline == o.After.Timeline
		if accepted := c.accepted(); same && c.Before.Done < o.After.Done && o.Before.Done < accepted {
			o.ClusterKnown = true
			o.Cluster = accepted - c.Before.Done
			o.AfterAccept = max(o.After.Done-accepted, 0) // negative if the prober was later than the application
		}
	}
	return o
}
