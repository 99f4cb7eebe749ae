package main

import (
	"math"
	"time"
)

// The accounting: what the clients did and what the last master holds, turned into figures. Pure functions of values;
// every time is one since the fault, negative before it.

// nobody is the node of an operation that failed.
const nobody = -1

// op is one finished operation of a client.
type op struct {
	client     int
	write      bool
	id         int64 // of a write
	start, end time.Duration
	node       int // who acknowledged or answered it; nobody if it failed: then nobody knows whether a write took effect
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

// record is all that a run left behind.
type record struct {
	nodes     []string // names
	old, next int      // masters; next is nobody if none was promoted
	idle      bool     // the clients rested from before the fault until they were woken
	marks     []mark
	end       time.Duration
	ops       []op // those of each client in order
	ledger    map[int64]bool
}

// at returns when a mark was made, the end of time if it was not.
func (r *record) at(name string) time.Duration {
	for _, m := range r.marks {
		if m.Name == name {
			return time.Duration(float64(m.At) * float64(time.Millisecond))
		}
	}
	return math.MaxInt64
}

// figures are what one run showed.
type figures struct {
	// Outage lasts from the last write that the old master acknowledged to the first that the new one did. Without a
	// promotion it is the longest time after the fault without an acknowledged write.
	Outage figure `json:"outage_ms"`
	// Recovery is the part of it in which the new master did accept writes.
	Recovery figure `json:"recovery_ms"`
	// ReadWait is the longest time after the fault that a reader was without an answer.
	ReadWait     figure `json:"read_wait_ms"`
	FailedWrites int    `json:"failed_writes"`
	FailedThere  int    `json:"failed_writes_in_effect"` // of these, in the ledger all the same
	FailedReads  int    `json:"failed_reads"`
	// Lost are acknowledged writes that the last master has not, but for Stray ones.
	Lost int `json:"lost"`
	// Stray are those that the old master acknowledged while the new one already accepted writes.
	Stray int `json:"stray"`
	// FirstWrite is how long the first write took after the clients had rested, and FirstNode who acknowledged it.
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

func (f *figures) count(r *record) {
	accepting := r.at(acceptingMark)
	for _, o := range r.ops {
		switch {
		case !o.write && o.node == nobody:
			f.FailedReads++
		case !o.write:
			f.Reads++
		case o.node == nobody:
			f.FailedWrites++
			if r.ledger[o.id] {
				f.FailedThere++
			}
		default:
			f.Writes++
			if r.next != nobody && o.node != r.next && o.end > accepting {
				f.Stray++
			} else if !r.ledger[o.id] {
				f.Lost++
			}
		}
	}
}

// outage finds the first write on the new master and what went before.
func outage(r *record) (total, recovery figure) {
	accepting := r.at(acceptingMark)
	last, again := time.Duration(math.MinInt64), time.Duration(math.MaxInt64)
	for _, o := range r.ops {
		if o.write && o.node == r.next {
			again = min(again, o.end)
		}
	}
	for _, o := range r.ops {
		if o.write && o.node == r.old && o.end < min(again, accepting) {
			last = max(last, o.end)
		}
	}
	if again == math.MaxInt64 || last == math.MinInt64 {
		return never, never
	}
	return millis(again - last), millis(max(again-accepting, 0)) // the prober may be a moment behind
}

// first returns how long the first write took that began after from, failed attempts before it included, and who did it.
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
	answered := make(map[int]time.Duration) // by client
	for _, o := range ops {
		if o.write != write {
			continue
		}
		last, known := answered[o.client]
		if !known {
			last = from
			answered[o.client] = from
		}
		if o.node != nobody && o.end > from {
			longest = max(longest, o.end-last)
			answered[o.client] = o.end
		}
	}
	for _, last := range answered {
		longest = max(longest, end-last)
	}
	return longest
}
