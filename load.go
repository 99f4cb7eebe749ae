package hasql

import (
	"math"
	"sync/atomic"
)

// nodeLoad counts what a node has to do. It is all that an acquire writes to, besides the pool itself.
type nodeLoad struct {
	lent     atomic.Int64  // connections lent and asked for
	open     atomic.Int64  // established connections that the pool has
	limit    int           // MaxConns of the pool
	turn     atomic.Uint64 // of RoundRobin: the last one
	acquires [targets]atomic.Int64
}

func (l *nodeLoad) inUse() int { return int(l.lent.Load()) }
func (l *nodeLoad) free() int  { return l.limit - int(l.lent.Load()) }

// lessThan compares how full two pools are.
func (l *nodeLoad) lessThan(o *nodeLoad) bool {
	return l.inUse()*o.limit < o.inUse()*l.limit
}

// leak finds connections that were hijacked. pgxpool does not tell of them, so they are lent for ever by our count; what
// our count has too many at each of several looks was hijacked.
type leak struct {
	least int64
	looks int
}

const leakLooks = 8

// look takes one more look, and returns by how much the count is too high once that is certain.
func (l *leak) look(extra int64) int64 {
	if l.looks == 0 {
		l.least = math.MaxInt64
	}
	l.least = min(l.least, extra)
	if l.looks++; l.looks < leakLooks {
		return 0
	}
	l.looks = 0
	return max(l.least, 0)
}

// recount compares our count of lent connections with the pool's own. A hijacked connection is not the pool's any more
// either, so it goes off both counts: what tryBorrow compares stays right.
func (n *nodePool) recount() {
	n.mu.Lock()
	defer n.mu.Unlock()
	lent, stat := n.load.lent.Load(), n.pool.Stat()
	hijacked := n.leak.look(lent - n.waiting.Load() - int64(stat.AcquiredConns()+stat.ConstructingConns()))
	n.load.open.Add(-hijacked)
	n.load.lent.Add(-hijacked)
}
