package hasql

import (
	"sync/atomic"
	"time"
)

// Candidate is a node that fits, as a [Picker] sees it: all that [NodeState] has, Latency at hand, and the live
// numbers InUse and Free.
type Candidate struct {
	*NodeState
	// Latency is NodeState's, copied so that pickers that compare many nodes find it in one place.
	Latency time.Duration

	// For the pickers of this package, so that a pick among many nodes stays cheap: place k holds the index of the
	// candidate that is k-th by latency, and the sum of the weights of candidates 0 to k; and NodeState's load at hand.
	byLatency int
	weightSum float64
	load      *nodeLoad
	rising    bool // came back while others were there: its share is still growing
}

// Picker chooses one of several fitting nodes. An implementation must be safe for concurrent use, must not block, and
// should not allocate: it runs inside every acquire that has a choice.
type Picker interface {
	// Pick returns an index into candidates, which has at least two elements in the order of the configuration. The
	// slice is shared: it must not be changed, nor kept after the call. A result out of range is taken as 0.
	Pick(candidates []Candidate) int
}

// PickerFunc is a function as a [Picker].
type PickerFunc func(candidates []Candidate) int

// Pick calls f.
func (f PickerFunc) Pick(candidates []Candidate) int { return f(candidates) }

// latencyWindow is how much slower than the nearest a node may answer and still share its load; MongoDB's
// localThresholdMS has the same value. Zones of one region are well inside it, other regions are not.
const latencyWindow = 15 * time.Millisecond

// LeastLoaded is the default policy. Of the nodes that answer at most 15 ms slower than the nearest it draws two at
// random and takes the one with fewer connections in use for its size. Two choices are nearly as even as looking at all
// nodes, and no herd runs to the one that looked best; see Mitzenmacher, "The Power of Two Choices in Randomized Load
// Balancing", IEEE TPDS 12 (2001).
func LeastLoaded() Picker { return PickerFunc(leastLoaded) }

func leastLoaded(cs []Candidate) int {
	limit := cs[cs[0].byLatency].Latency + latencyWindow
	low, high := 1, len(cs) // how many are within the window: by latency the first is, and the end is sought in halves
	for low < high {
		middle := int(uint(low+high) / 2)
		if cs[cs[middle].byLatency].Latency <= limit {
			low = middle + 1
		} else {
			high = middle
		}
	}
	near := uint32(low)
	i := below(near)
	if near == 1 {
		return cs[i].byLatency
	}
	j := below(near - 1)
	if j >= i {
		j++
	}
	a, b := cs[i].byLatency, cs[j].byLatency
	if cs[b].load.lessThan(cs[a].load) {
		return b
	}
	return a
}

// Greedy takes the node whose pool has the most free connections, any of those that are equal.
func Greedy() Picker { return PickerFunc(greedy) }

func greedy(cs []Candidate) int {
	start := random(cs) // so that equal nodes take turns
	best, most := start, cs[start].load.free()
	for i := range cs {
		if free := cs[i].load.free(); free > most {
			best, most = i, free
		}
	}
	return best
}

// RoundRobin takes the nodes in turn: always the one whose last turn is longest ago. A mere counter would starve nodes
// where sets of different sizes alternate, as they do when several routes share the policy.
func RoundRobin() Picker { return new(roundRobin) }

type roundRobin struct{ turn atomic.Uint64 }

func (r *roundRobin) Pick(cs []Candidate) int {
	next := r.turn.Add(1)
	for {
		first, oldest := 0, cs[0].load.turn.Load()
		for i := 1; i < len(cs) && oldest != 0; i++ {
			if turn := cs[i].load.turn.Load(); turn < oldest {
				first, oldest = i, turn
			}
		}
		if cs[first].load.turn.CompareAndSwap(oldest, next) {
			return first
		}
	}
}

// Random takes any node.
func Random() Picker { return PickerFunc(random) }

func random(cs []Candidate) int { return int(below(uint32(len(cs)))) }

// RandomWeighted takes a node with a probability in proportion to the reciprocal of its latency: one that answers twice
// as fast gets twice the work.
func RandomWeighted() Picker { return PickerFunc(randomWeighted) }

func randomWeighted(cs []Candidate) int {
	last := len(cs) - 1
	at := fraction() * cs[last].weightSum
	low, high := 0, last
	for low < high {
		middle := int(uint(low+high) / 2)
		if cs[middle].weightSum > at {
			high = middle
		} else {
			low = middle + 1
		}
	}
	return low
}

// Nearest takes the node with the lowest latency.
func Nearest() Picker { return PickerFunc(nearest) }

func nearest(cs []Candidate) int { return cs[0].byLatency }

// First takes the first node in the order of the configuration, and the next one only while that does not fit: libpq's
// load_balance_hosts=disable. It is for replicas that stand by for one that is meant to do all the work.
func First() Picker { return PickerFunc(first) }

func first([]Candidate) int { return 0 }
