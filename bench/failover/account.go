package main

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/pghasql/hasql/internal/workload"
)

// The accounting turns what the clients did, and what the last master holds, into figures. It consists of pure functions of
// values. Every time is one since the fault, negative before it.

const nobody = workload.Nobody

// op is one finished operation of a client.
type op struct {
	client     int
	write      bool
	id         int64 // of a write
	start, end time.Duration
	node       int // that acknowledged or answered it; nobody if it failed: a write may have taken effect then
	err        string
}

// mark is a moment of a run.
type mark struct {
	Name string `json:"name"`
	At   figure `json:"at_ms"`
}

// Marks that mean something to the accounting.
const (
	acceptingMark = "accepting" // the new master accepts writes
	wakeMark      = "wake"      // the clients work again
)

// record is everything that the figures of a run are computed from.
type record struct {
	nodes     []string // names
	old, next int      // masters; next is nobody if none was promoted
	idle      bool     // the clients paused from before the fault until they were woken
	marks     []mark
	end       time.Duration
	ops       []op           // those of each client in order
	missing   map[int64]bool // writes that the last master does not have
}

// at returns when a mark was made, and the greatest possible time if it was not made.
func (r *record) at(name string) time.Duration {
	for _, m := range r.marks {
		if m.Name == name {
			return time.Duration(float64(m.At) * float64(time.Millisecond))
		}
	}
	return math.MaxInt64
}

// figures are the results of one run.
type figures struct {
	// Outage lasts from the last write that the old master acknowledged to the first that the new one did. Without a
	// promotion it is the longest time after the fault without an acknowledged write.
	Outage figure `json:"outage_ms"`
	// Recovery is the part of Outage in which the new master accepted writes.
	Recovery figure `json:"recovery_ms"`
	// ReadWait is the longest time after the fault that a reader was without an answer.
	ReadWait     figure `json:"read_wait_ms"`
	FailedWrites int    `json:"failed_writes"`
	FailedThere  int    `json:"failed_writes_in_effect"` // of these, on the last master all the same
	FailedReads  int    `json:"failed_reads"`
	// Lost counts acknowledged writes that the last master does not have, without Stray ones.
	Lost int `json:"lost"`
	// Stray counts writes that the old master acknowledged while the new one already accepted writes.
	Stray int `json:"stray"`
	// FirstWrite is how long the first write took after the clients had paused. FirstNode is the node that acknowledged it.
	FirstWrite figure `json:"first_write_ms"`
	FirstNode  string `json:"first_write_node,omitempty"`
	Writes     int    `json:"acknowledged_writes"`
	Reads      int    `json:"answered_reads"`
}

// account turns a record into figures.
func account(r record) figures {
	f := figures{Outage: none, Recovery: none, FirstWrite: none}
	f.count(&r)
	from := time.Duration(0)
	switch {
	case r.idle:
		from = r.at(wakeMark)
		f.FirstWrite, f.FirstNode = first(&r, from)
	case r.next == nobody:
		f.Outage = millis(longestWait(r.ops, true, 0, r.end))
	default:
		f.Outage, f.Recovery = outage(&r)
	}
	f.ReadWait = none
	if f.Reads+f.FailedReads > 0 {
		f.ReadWait = millis(longestWait(r.ops, false, from, r.end))
	}
	return f
}

// count counts reads and writes.
func (f *figures) count(r *record) {
	ledger := r.ledger()
	c := ledger.Counts()
	f.Writes, f.FailedWrites, f.Lost, f.Stray = c.Acknowledged, c.Failed, c.Lost, c.Stray
	for _, o := range r.ops {
		switch {
		case !o.write && o.node == nobody:
			f.FailedReads++
		case !o.write:
			f.Reads++
		case o.node == nobody && !r.missing[o.id]:
			f.FailedThere++
		}
	}
}

// ledger returns a ledger of all writes, and of the moment at which the new master accepted writes. A node is on a later
// timeline if it is the new master.
func (r *record) ledger() *workload.Ledger {
	type entry struct {
		at    time.Duration
		enter func(*workload.Ledger)
	}
	entries := []entry{{r.at(acceptingMark), func(l *workload.Ledger) { l.Accepted(r.ack(r.at(acceptingMark), r.next)) }}}
	if r.next == nobody {
		entries = nil
	}
	for _, o := range r.ops {
		switch {
		case o.write && o.node == nobody:
			entries = append(entries, entry{o.end, func(l *workload.Ledger) { l.Failed(o.id) }})
		case o.write:
			entries = append(entries, entry{o.end, func(l *workload.Ledger) { l.Acknowledged(o.id, r.ack(o.end, o.node)) }})
		}
	}
	slices.SortStableFunc(entries, func(a, b entry) int { return cmp.Compare(a.at, b.at) })
	ledger := workload.NewLedger(len(entries), len(entries))
	for _, e := range entries {
		e.enter(ledger)
	}
	ledger.Lose(slices.Collect(maps.Keys(r.missing)))
	return ledger
}

// ack returns a write that a node acknowledged at a time.
func (r *record) ack(at time.Duration, node int) workload.Ack {
	const before, after = 1, 2 // timelines of a new cluster
	if node == r.next {
		return workload.Ack{Sent: at, Done: at, Node: node, Timeline: after}
	}
	return workload.Ack{Sent: at, Done: at, Node: node, Timeline: before}
}

// outage returns how long the application could not write, and the part in which the new master accepted writes.
func outage(r *record) (total, recovery figure) {
	for _, o := range r.ledger().Outages() {
		if o.Moved() {
			return millis(o.Length()), millis(max(o.After.Done-r.at(acceptingMark), 0)) // the prober may be a moment behind
		}
	}
	return never, never
}

// first returns how long the first write after from took, including failed attempts, and which node acknowledged it.
func first(r *record, from time.Duration) (took figure, node string) {
	began := time.Duration(-1)
	for _, o := range r.ops {
		if !o.write || o.start < from {
			continue
		}
		if began < 0 {
			began = o.start
		}
		if o.node != nobody {
			return millis(o.end - began), r.nodes[o.node]
		}
	}
	return never, ""
}

// longestWait returns the longest time between from and end that a writer or reader was without an answer.
func longestWait(ops []op, write bool, from, end time.Duration) (longest time.Duration) {
	clients := make(map[int]*workload.Silence)
	for _, o := range ops {
		if o.write != write {
			continue
		}
		if clients[o.client] == nil {
			clients[o.client] = new(workload.SilenceFrom(from))
		}
		if o.node != nobody {
			clients[o.client].End(o.end)
		}
	}
	for _, silence := range clients {
		longest = max(longest, silence.Longest(end))
	}
	return longest
}
