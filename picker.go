package hasql

import (
	"sync/atomic"
	"time"

	"github.com/pghasql/hasql/internal/nodepool"
	"github.com/pghasql/hasql/internal/random"
)

// Candidate is a node that fits, as a [Picker] sees it. It has all fields of [NodeState], and the live numbers InUse and
// Free.
type Candidate struct {
	*NodeState
	// Latency is NodeState's Latency, copied so that a picker that compares many nodes reads it from one place.
	Latency time.Duration

	// The fields below keep a pick among many nodes cheap. In the candidate at index k, byLatency is the index of the
	// candidate that is k-th by latency, and weightSum is the sum of the weights of candidates 0 to k.
	byLatency    int
	weightSum    float64
	load         *nodepool.Load
	slowStarting bool // the node came back while others were up, and its share of reads still grows
}

// Picker chooses one of several nodes that fit. An implementation must be safe for concurrent use, must not block, and
// should not allocate, because it runs inside every acquire that has a choice. A panic ends the acquire that called the
// Picker. While an acquire waits for a full pool, the Picker may also be called in the background for that acquire; after
// a panic there the acquire stays in its queue.
type Picker interface {
	// Pick returns an index into candidates, which has at least two elements in the order of the configuration. The slice
	// is shared: Pick must not change it or keep it after the call. A result out of range counts as 0.
	Pick(candidates []Candidate) int
}

// PickerFunc is a function as a [Picker].
type PickerFunc func(candidates []Candidate) int

// Pick calls f.
func (f PickerFunc) Pick(candidates []Candidate) int { return f(candidates) }

// latencyWindow is how much slower than the nearest node another node may answer and still share its load. MongoDB's
// localThresholdMS has the same value. Zones of one region are well within it; other regions are not.
const latencyWindow = 15 * time.Millisecond

// LeastLoaded is the default policy. It considers the nodes that answer at most 15 ms slower than the nearest node, draws
// two of them at random, and takes the one with fewer connections in use in proportion to its pool size. That balances
// nearly as well as comparing all nodes, and clients do not all run to the same node; see Mitzenmacher, "The Power of Two
// Choices in Randomized Load Balancing", IEEE TPDS 12 (2001).
func LeastLoaded() Picker { return PickerFunc(leastLoaded) }

func leastLoaded(cs []Candidate) int {
	limit := cs[cs[0].byLatency].Latency + latencyWindow
	low, high := 1, len(cs) // binary search for the number of nodes within the window; the nearest node is always within it
	for low < high {
		middle := int(uint(low+high) / 2)
		if cs[cs[middle].byLatency].Latency <= limit {
			low = middle + 1
		} else {
			high = middle
		}
	}
	near := uint32(low)
	i := random.Below(near)
	if near == 1 {
		return cs[i].byLatency
	}
	j := random.Below(near - 1)
	if j >= i {
		j++
	}
	a, b := cs[i].byLatency, cs[j].byLatency
	if cs[b].load.LessThan(cs[a].load) {
		return b
	}
	return a
}

// Greedy takes the node whose pool has the most free connections. Among equal nodes it takes any.
func Greedy() Picker { return PickerFunc(greedy) }

func greedy(cs []Candidate) int {
	start := anyOf(cs) // so that equal nodes take turns
	best, most := start, cs[start].load.Limit()-cs[start].load.InUse()
	for i := range cs {
		if free := cs[i].load.Limit() - cs[i].load.InUse(); free > most {
			best, most = i, free
		}
	}
	return best
}

// RoundRobin takes the nodes in turn: always the node whose last turn is longest ago. A simple counter would starve nodes
// when candidate lists of different lengths alternate, as they do if several routes share the policy.
func RoundRobin() Picker { return new(roundRobin) }

type roundRobin struct{ turn atomic.Uint64 }

func (r *roundRobin) Pick(cs []Candidate) int {
	next := r.turn.Add(1)
	for {
		first, oldest := 0, cs[0].node.turn.Load()
		for i := 1; i < len(cs) && oldest != 0; i++ {
			if turn := cs[i].node.turn.Load(); turn < oldest {
				first, oldest = i, turn
			}
		}
		if cs[first].node.turn.CompareAndSwap(oldest, next) {
			return first
		}
	}
}

// Random takes any node, each with the same probability.
func Random() Picker { return PickerFunc(anyOf) }

func anyOf(cs []Candidate) int { return int(random.Below(uint32(len(cs)))) }

// RandomWeighted takes a node with a probability in proportion to the reciprocal of its latency: a node that answers
// twice as fast gets twice the work.
func RandomWeighted() Picker { return PickerFunc(randomWeighted) }

func randomWeighted(cs []Candidate) int {
	last := len(cs) - 1
	at := random.Fraction() * cs[last].weightSum
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

// First takes the first node in the order of the configuration, and the next one only while the first does not fit. This
// is libpq's load_balance_hosts=disable. It is for replicas that only stand in for one replica that does all the work.
func First() Picker { return PickerFunc(first) }

func first([]Candidate) int { return 0 }
