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

// frozen returns the present counts, which change no more.
func (l *nodeLoad) frozen() *nodeLoad {
	f := &nodeLoad{limit: l.limit}
	f.lent.Store(l.lent.Load())
	f.open.Store(l.open.Load())
	return f
}

func (l *nodeLoad) inUse() int { return int(l.lent.Load()) }
func (l *nodeLoad) free() int  { return l.limit - int(l.lent.Load()) }

// idle reports whether a connection is open that nobody has or asks for.
func (l *nodeLoad) idle() bool { return l.lent.Load() < l.open.Load() }

// claim counts one more connection as lent if the pool can have it.
func (l *nodeLoad) claim() bool {
	if l.lent.Add(1) <= int64(l.limit) {
		return true
	}
	l.lent.Add(-1)
	return false
}

// served returns how many connections were lent until now.
func (l *nodeLoad) served() (n int64) {
	for t := range l.acquires {
		n += l.acquires[t].Load()
	}
	return n
}

// lessThan compares how full two pools are.
func (l *nodeLoad) lessThan(o *nodeLoad) bool {
	return l.inUse()*o.limit < o.inUse()*l.limit
}

// leak finds connections that were hijacked, of which pgxpool does not tell. They stay on our counts and are on its own no
// longer. Other differences pass in a moment: what is there at each of several looks was hijacked.
type leak struct {
	least int64
	looks int
}

const leakLooks = 8

// look takes one more look, and returns by how much our count is too high once that is certain.
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

// recount compares our count of open connections with the pool's own. A hijacked one goes off both counts, so what
// tryBorrow compares stays right. The count of lent ones can't be compared: between our count and the pool's own there is
// always somebody, where many acquire at once. Connections are made and closed far less often. Ours are counted after the
// pool has begun to make them, and before it has closed them, so one that is on the way makes our count too low. It is read
// twice, for one may be closed meanwhile.
func (n *nodePool) recount() {
	n.mu.Lock()
	defer n.mu.Unlock()
	open := n.load.open.Load()
	total := int64(n.pool.Stat().TotalConns())
	hijacked := n.leak.look(min(open, n.load.open.Load()) - total)
	n.load.open.Add(-hijacked)
	n.load.lent.Add(-hijacked)
}
