package hasql

import (
	"iter"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// Stat holds the counters of a [PoolManager] and the state of its nodes at the moment of [PoolManager.Stat].
type Stat struct {
	snapshot *Snapshot
	nodes    []NodeStat
	targets  [targets]TargetStat
	cut      int64
	repeated int64

	discovery DiscoveryStat
}

// Snapshot returns the view of the nodes that the numbers of nodes belong to.
func (s *Stat) Snapshot() *Snapshot { return s.snapshot }

// Nodes returns every node in the order of the configuration. The slice is the caller's.
func (s *Stat) Nodes() []NodeStat { return slices.Clone(s.nodes) }

// Target returns the counters of acquires for t, of all nodes together. They are zero if t is no constant of Target.
func (s *Stat) Target(t Target) TargetStat {
	if int(t) >= targets {
		return TargetStat{}
	}
	return s.targets[t]
}

// Targets returns the counters of acquires for each target.
func (s *Stat) Targets() iter.Seq2[Target, TargetStat] {
	return func(yield func(Target, TargetStat) bool) {
		for t := range s.targets {
			if !yield(Target(t), s.targets[t]) {
				return
			}
		}
	}
}

// Discovery returns what became of asking [Config.Discoverer]. It is zero where there is none.
func (s *Stat) Discovery() DiscoveryStat { return s.discovery }

// Failovers returns how many times another node has become the master than was it last.
func (s *Stat) Failovers() int64 { return s.snapshot.failovers }

// NoMasterTime returns how long no master was known since New, all such times together, the present one included. It is as of
// [Snapshot.Time] and never decreases.
func (s *Stat) NoMasterTime() time.Duration { return s.snapshot.noMasterTotal }

// ConnectionsCut returns how many connections hasql has cut because their node was down, stale or foreign, idle ones included.
// Connections that the node itself has ended do not count.
func (s *Stat) ConnectionsCut() int64 { return s.cut }

// StatementsRepeated returns how many statements of routes ran again because a server had undone them and stopped, see
// [Config.Repeat].
func (s *Stat) StatementsRepeated() int64 { return s.repeated }

// NodeStat holds the numbers of one node.
type NodeStat struct {
	NodeState               // role, status and its cause, latency, lag, …
	Age       time.Duration // of the evidence for the role; negative if there is none
	Pool      *pgxpool.Stat
	Guests    int // connections outside the pool: of a [Route.Pool], of a [Route.ConnectFunc], of a sql.DB

	acquires [targets]int64
}

// Acquires returns how many connections the node has lent to acquires for t. A master that serves reads as a fallback
// lends them for [TargetReplica]. The number is zero if t is no constant of Target.
func (n *NodeStat) Acquires(t Target) int64 {
	if int(t) >= targets {
		return 0
	}
	return n.acquires[t]
}

// TargetStat holds the counters of acquires for one target.
type TargetStat struct {
	Acquires int64         // connections lent
	Waits    int64         // acquires that found no idle connection, whether they got one in the end or not
	WaitTime time.Duration // the sum of their waits, failed acquires included
	Failures int64         // acquires that failed, also because the caller's context ended

	// Waiting is how many wait at this moment: for a node, for a place in its pool, for a dial. Acquires count, and so do
	// dials of a [Route.Pool], of a [Route.ConnectFunc] and of a sql.DB. They come into the other fields when they end, which
	// for acquires during an outage may take AcquireTimeout; Waiting shows the outage while it lasts.
	Waiting int64

	buckets [len(waitBounds) + 1]int64
}

// WaitHistogram yields the upper bounds of a histogram of waits, from 1 ms to 30 s, each with the number of waits that took no
// longer. The number of all waits is Waits.
func (s TargetStat) WaitHistogram() iter.Seq2[time.Duration, int64] {
	return func(yield func(time.Duration, int64) bool) {
		sum := int64(0)
		for i, bound := range waitBounds {
			if sum += s.buckets[i]; !yield(bound, sum) {
				return
			}
		}
	}
}

// Stat returns the present numbers. It takes a lock of each pool for a moment.
func (pm *PoolManager) Stat() *Stat {
	s, now := pm.cluster.snapshot(), time.Now()
	st := &Stat{snapshot: s, nodes: make([]NodeStat, len(s.nodes)), discovery: *pm.cluster.discovery.Load()}
	for i, state := range s.nodes {
		n := NodeStat{NodeState: state, Age: -1, Pool: state.node.pool.Stat(), Guests: state.node.load.Guests()}
		if !n.ReportedAt.IsZero() {
			n.Age = now.Sub(n.ReportedAt)
		}
		for t := range n.acquires {
			n.acquires[t] = state.node.acquires[t].Load()
			st.targets[t].Acquires += n.acquires[t]
		}
		st.nodes[i] = n
	}
	counts := &pm.cluster.counts
	for t := range counts.waits {
		w, target := &counts.waits[t], &st.targets[t]
		target.Acquires += s.departedAcquires[t]
		for i := range w.buckets {
			target.buckets[i] = w.buckets[i].Load()
			target.Waits += target.buckets[i]
		}
		target.WaitTime = time.Duration(w.nanoseconds.Load())
		target.Failures = w.failures.Load()
		target.Waiting = w.waiting()
	}
	st.cut, st.repeated = counts.cut.Load(), counts.repeated.Load()
	return st
}
