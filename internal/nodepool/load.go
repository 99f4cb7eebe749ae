package nodepool

import (
	"math"
	"sync/atomic"
)

// Load counts the connections of a node. Every acquire changes it.
type Load struct {
	demand atomic.Int64 // connections lent and asked for
	open   atomic.Int64 // established connections that the pool has
	guests atomic.Int64 // connections beside those of the pool, see guest.go
	limit  int          // MaxConns of the pool
}

// Frozen returns a copy of the present counts, which no longer changes.
func (l *Load) Frozen() *Load {
	f := &Load{limit: l.limit}
	f.demand.Store(l.demand.Load())
	f.open.Store(l.open.Load())
	f.guests.Store(l.guests.Load())
	return f
}

// NewLoad returns the load of a pool that may have limit connections and has none yet.
func NewLoad(limit int) *Load { return &Load{limit: limit} }

// Limit returns how many connections the pool may have.
func (l *Load) Limit() int { return l.limit }

// Open returns how many connections the pool has.
func (l *Load) Open() int { return int(l.open.Load()) }

// Take counts one more connection as lent, even if the pool has none left.
func (l *Load) Take() { l.demand.Add(1) }

// GiveBack counts one connection less as lent.
func (l *Load) GiveBack() { l.demand.Add(-1) }

// Demand returns how many connections are lent or asked for.
func (l *Load) Demand() int { return int(l.demand.Load()) }

// Guests returns how many connections there are outside the pool.
func (l *Load) Guests() int { return int(l.guests.Load()) }

// InUse returns how many connections are lent or asked for, guests included.
func (l *Load) InUse() int { return int(l.demand.Load() + l.guests.Load()) }

// Free returns how many more connections the pool can lend, negative while acquires queue for it.
func (l *Load) Free() int { return l.limit - int(l.demand.Load()) }

// Idle reports whether a connection is open that is not lent and that no acquire waits for.
func (l *Load) Idle() bool { return l.demand.Load() < l.open.Load() }

// Claim counts one more connection as lent, unless the limit is reached.
func (l *Load) Claim() bool {
	if l.demand.Add(1) <= int64(l.limit) {
		return true
	}
	l.demand.Add(-1)
	return false
}

// LessThan compares how full two pools are, in proportion to their limits.
func (l *Load) LessThan(o *Load) bool {
	return l.InUse()*o.limit < o.InUse()*l.limit
}

// hijackSamples finds connections that were hijacked. pgxpool has no hook for Hijack, so such a connection stays in
// hasql's count and is no longer in pgxpool's. All other differences pass in a moment. A surplus that is present in
// hijackSampleCount consecutive samples is taken for hijacked connections.
type hijackSamples struct {
	least   int64
	samples int
}

const hijackSampleCount = 8

// sample takes one more sample. It returns by how much hasql's count is too high, or 0 as long as that is uncertain.
func (l *hijackSamples) sample(surplus int64) int64 {
	if l.samples == 0 {
		l.least = math.MaxInt64
	}
	l.least = min(l.least, surplus)
	if l.samples++; l.samples < hijackSampleCount {
		return 0
	}
	l.samples = 0
	return max(l.least, 0)
}

// Recount compares hasql's count of open connections with pgxpool's. It subtracts hijacked connections from both counts,
// open and lent, so that the comparison in TryBorrow stays right. The counts of lent connections cannot be compared:
// under load an acquire is always between hasql's count and pgxpool's. Connections are opened and closed far less often.
// hasql counts a connection after pgxpool has begun to open it, and until just before pgxpool closes it. So hasql's count may
// be too low during an open or a close. It is never too high. Recount reads it twice, because a connection may be closed
// while pgxpool's is read.
func (p *Pool) Recount() {
	p.mu.Lock()
	defer p.mu.Unlock()
	open := p.open.Load()
	total := int64(p.pool.Stat().TotalConns())
	hijacked := p.hijacked.sample(min(open, p.open.Load()) - total)
	p.open.Add(-hijacked)
	p.demand.Add(-hijacked)
}
