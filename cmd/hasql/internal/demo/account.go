package demo

import (
	"cmp"
	"math"
	"slices"
	"time"
)

// The bookkeeping: what the clients recorded and what the new master holds, turned into what became of the writes.
// Pure functions of values; every time is one since the workload began.

// nobody is the node of a write that was not acknowledged.
const nobody = -1

// write is one finished insert of a writer.
type write struct {
	id   int64
	done time.Duration
	node int // who acknowledged it; nobody if it failed, so that nobody knows whether it took effect
}

// read is one finished query of a reader.
type read struct {
	done time.Duration
	node int // who answered; nobody if it failed
}

// failover is what was done to the cluster in one run.
type failover struct {
	old, next int           // nodes
	killed    time.Duration // when old was about to be killed
	promoted  time.Duration // when next was about to be promoted
	accepted  time.Duration // when the first write that next accepted from the probe was sent
	until     time.Duration // when the next run began, or the end
}

// outage is what writers saw of one failover.
type outage struct {
	total       time.Duration // from the last write that old acknowledged to the first that next did
	afterAccept time.Duration // how much of that was left when next accepted writes
	over        bool          // false: next acknowledged none, and the times mean nothing
}

// outageOf finds the outage of a failover among all acknowledged writes, in any order.
func outageOf(f failover, writes []write) outage {
	last, first := time.Duration(-1), time.Duration(math.MaxInt64)
	for _, w := range writes {
		if w.node == f.next && w.done >= f.promoted && w.done <= f.until {
			first = min(first, w.done)
		}
	}
	for _, w := range writes {
		if w.node == f.old && w.done < min(first, f.promoted) {
			last = max(last, w.done)
		}
	}
	if last < 0 || first == math.MaxInt64 {
		return outage{}
	}
	// The probe may be a moment behind the application: then nothing was left.
	return outage{total: first - last, afterAccept: max(first-f.accepted, 0), over: true}
}

// fates counts what became of the writes.
type fates struct {
	acknowledged int
	lost         int // acknowledged, and not in the ledger
	stray        int // acknowledged after a promotion by another node than the promoted one
	failed       int // not acknowledged
	failedThere  int // of these, in the ledger all the same
}

// settle compares the writes with the ledger as the last master holds it. The failovers are in order.
func settle(writes []write, ledger map[int64]bool, failovers []failover) fates {
	var f fates
	for _, w := range writes {
		switch {
		case w.node == nobody:
			f.failed++
			if ledger[w.id] {
				f.failedThere++
			}
			continue
		case astray(w, failovers):
			f.stray++
		case !ledger[w.id]:
			f.lost++
		}
		f.acknowledged++
	}
	return f
}

// astray reports whether w was acknowledged by a node that was not the master any more.
func astray(w write, failovers []failover) bool {
	for _, f := range slices.Backward(failovers) {
		if w.done >= f.promoted {
			return w.node != f.next
		}
	}
	return false
}

// longestWait returns the longest time one client, from the beginning to the end, had no answer.
func longestWait(reads []read, end time.Duration) time.Duration {
	var longest, last time.Duration
	for _, r := range reads {
		if r.node != nobody {
			longest = max(longest, r.done-last)
			last = r.done
		}
	}
	return max(longest, end-last)
}

// spreadOf returns the median, least and greatest of values; zero if there are none.
func spreadOf[T cmp.Ordered](values []T) (median, least, greatest T) {
	if len(values) == 0 {
		return median, least, greatest
	}
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2], sorted[0], sorted[len(sorted)-1] // the upper of two: no better than it was
}
