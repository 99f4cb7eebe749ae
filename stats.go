package hasql

import (
	"iter"
	"slices"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// Stat is what a [PoolManager] had counted at the moment of [PoolManager.Stat], and what its nodes were then.
type Stat struct {
	snapshot *Snapshot
	nodes    []NodeStat
	targets  [targets]TargetStat
}

// Snapshot returns the view of the nodes that the numbers of nodes belong to.
func (s *Stat) Snapshot() *Snapshot { return s.snapshot }

// Nodes returns every node in the order of the configuration. The slice is the caller's.
func (s *Stat) Nodes() []NodeStat { return slices.Clone(s.nodes) }

// Target returns what became of acquires for t, from all nodes together. It is zero for a t that is no target.
func (s *Stat) Target(t Target) TargetStat {
	if int(t) >= targets {
		return TargetStat{}
	}
	return s.targets[t]
}

// Targets returns what became of acquires for each target.
func (s *Stat) Targets() iter.Seq2[Target, TargetStat] {
	return func(yield func(Target, TargetStat) bool) {
		for t := range s.targets {
			if !yield(Target(t), s.targets[t]) {
				return
			}
		}
	}
}

// NodeStat is one node.
type NodeStat struct {
	NodeState               // role, status and its cause, latency, lag, …
	Age       time.Duration // of the evidence for the role; negative if there is none
	Pool      *pgxpool.Stat

	acquires [targets]int64
}

// Acquires returns how many connections the node has lent to those who asked for t: a master that serves reads as a fallback
// has lent them for [TargetReplica]. It is zero for a t that is no target.
func (n *NodeStat) Acquires(t Target) int64 {
	if int(t) >= targets {
		return 0
	}
	return n.acquires[t]
}

// TargetStat is what became of acquires for one target.
type TargetStat struct {
	Acquires int64         // connections lent
	Waits    int64         // acquires that found no connection idle, whether they got one in the end or not
	WaitTime time.Duration // spent by them, failed ones included
	Failures int64         // acquires that failed, their caller's context included
}

// Stat returns the present numbers. It takes a lock of each pool for a moment.
func (pm *PoolManager) Stat() *Stat {
	s, now := pm.cluster.snapshot(), time.Now()
	st := &Stat{snapshot: s, nodes: make([]NodeStat, len(pm.pools))}
	for i, p := range pm.pools {
		n := NodeStat{NodeState: s.nodes[i], Age: -1, Pool: p.pool.Stat()}
		if !n.ReportedAt.IsZero() {
			n.Age = now.Sub(n.ReportedAt)
		}
		for t := range n.acquires {
			n.acquires[t] = p.load.acquires[t].Load()
			st.targets[t].Acquires += n.acquires[t]
		}
		st.nodes[i] = n
	}
	for t := range pm.waits {
		st.targets[t].Waits = pm.waits[t].count.Load()
		st.targets[t].WaitTime = time.Duration(pm.waits[t].nanoseconds.Load())
		st.targets[t].Failures = pm.waits[t].failures.Load()
	}
	return st
}

// waitCount counts the acquires that had to wait.
type waitCount struct {
	count, nanoseconds, failures atomic.Int64
}

func (w *waitCount) record(started time.Time, err *error) {
	w.count.Add(1)
	w.nanoseconds.Add(int64(time.Since(started)))
	if *err != nil {
		w.failures.Add(1)
	}
}
