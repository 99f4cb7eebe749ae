package hasql

import (
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// Stat is what a [PoolManager] counted until the moment of [PoolManager.Stat].
type Stat struct {
	Nodes []NodeStat // in the order of the configuration
	// Targets holds the totals by what was asked for, indexed by [Target].
	Targets [targets]TargetStat
}

// NodeStat is one node.
type NodeStat struct {
	NodeState               // role, status and its cause, latency, lag, …
	Age       time.Duration // of the evidence for the role; negative if there is none
	Pool      *pgxpool.Stat
	// Acquires counts the connections lent, indexed by what was asked for: a master that serves reads as a fallback
	// counts them under [TargetReplica].
	Acquires [targets]int64
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
	st := &Stat{Nodes: make([]NodeStat, len(pm.pools))}
	for i, p := range pm.pools {
		n := NodeStat{NodeState: s.nodes[i], Age: -1, Pool: p.pool.Stat()}
		if !n.ReportedAt.IsZero() {
			n.Age = now.Sub(n.ReportedAt)
		}
		for t := range n.Acquires {
			n.Acquires[t] = p.load.acquires[t].Load()
			st.Targets[t].Acquires += n.Acquires[t]
		}
		st.Nodes[i] = n
	}
	for t := range pm.waits {
		st.Targets[t].Waits = pm.waits[t].count.Load()
		st.Targets[t].WaitTime = time.Duration(pm.waits[t].nanoseconds.Load())
		st.Targets[t].Failures = pm.waits[t].failures.Load()
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
