package workload

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

// Counts are the writes of an application by what became of them.
type Counts struct {
	Acknowledged int
	Failed       int // outcome unknown
	Lost         int // acknowledged, and missing on the master, but for Stray ones
	Stray        int // acknowledged by a superseded master
}

// Ledger records the writes of an application and of the probers next to it, in bounded memory. It must not be used by
// several goroutines at a time.
type Ledger struct {
	counts       Counts
	application  gaps
	cluster      gaps // what the probers saw
	acknowledged ring
	failed       ring
}

// NewLedger returns a ledger that keeps the ids of so many acknowledged and so many failed writes, the latest ones.
func NewLedger(acknowledged, failed int) *Ledger {
	return &Ledger{acknowledged: ring{limit: acknowledged}, failed: ring{limit: failed}}
}

// Acknowledged records an acknowledged write. If the write ended an outage of the application, it returns the outage as it
// is known by now. A write is stray if another write, of the application or of a prober, was accepted on a later timeline
// before this one was acknowledged. A stray write neither ends nor prolongs an outage, and need not be on the master.
func (l *Ledger) Acknowledged(id int64, a Ack) (o Outage, ended bool) {
	l.counts.Acknowledged++
	if l.application.supersedes(a) || l.cluster.supersedes(a) {
		l.counts.Stray++
		return o, false
	}
	l.acknowledged.add(id)
	g, ended := l.application.add(a)
	if !ended {
		return o, false
	}
	return l.Outage(g), true
}

// Failed records a write whose outcome is unknown.
func (l *Ledger) Failed(id int64) {
	l.counts.Failed++
	l.failed.add(id)
}

// Accepted records a write of a prober, and reports whether it is the first write that a new master accepted.
func (l *Ledger) Accepted(a Ack) (first bool) {
	g, ended := l.cluster.add(a)
	return ended && g.Moved()
}

// Expected returns the ids of the writes that the master must have, in no particular order.
func (l *Ledger) Expected() []int64 { return l.acknowledged.list() }

// Doubtful returns the ids of the failed writes, which the master may have.
func (l *Ledger) Doubtful() []int64 { return l.failed.list() }

// Lose records that the master does not have these writes. Those that it must have are counted as lost, once.
func (l *Ledger) Lose(ids []int64) { l.counts.Lost += l.acknowledged.remove(ids) }

// Counts returns the counters.
func (l *Ledger) Counts() Counts { return l.counts }

// Last returns the last acknowledged write that was not stray. Its Timeline is 0 if there is none.
func (l *Ledger) Last() Ack { return l.application.last }

// LastAccepted returns when a prober's write was last acknowledged, 0 if none was.
func (l *Ledger) LastAccepted() time.Duration { return l.cluster.last.Done }

// Outages returns the latest outages of the application, oldest first, at most KeptOutages.
func (l *Ledger) Outages() []Outage {
	outages := make([]Outage, 0, len(l.application.found))
	for _, g := range l.application.found {
		outages = append(outages, l.Outage(g))
	}
	return outages
}

// Outage returns what is known about an outage of the application.
func (l *Ledger) Outage(g Gap) Outage { return outageOf(g, l.cluster.found) }

// Querier is what a connection, a pool and a route have in common.
type Querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// Missing returns those of ids that a table does not have in its column id.
func Missing(ctx context.Context, db Querier, table string, ids []int64) ([]int64, error) {
	rows, err := db.Query(ctx, `select id from unnest($1::bigint[]) as wanted(id)
		where not exists (select from `+table+` t where t.id = wanted.id)`, ids)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[int64])
}

// ring keeps the last ids that were added.
type ring struct {
	limit int
	ids   []int64
	next  int // index of the oldest id, once the ring is full
}

func (r *ring) add(id int64) {
	if len(r.ids) < r.limit {
		r.ids = append(r.ids, id)
		return
	}
	r.ids[r.next] = id
	r.next = (r.next + 1) % r.limit
}

// list returns a copy of the ids, in no particular order.
func (r *ring) list() []int64 { return append([]int64(nil), r.ids...) }

// remove removes ids, and returns how many of them the ring had.
func (r *ring) remove(ids []int64) (had int) {
	gone := make(map[int64]bool, len(ids))
	for _, id := range ids {
		gone[id] = true
	}
	kept := make([]int64, 0, len(r.ids))
	for i := range r.ids {
		id := r.ids[(r.next+i)%len(r.ids)]
		if gone[id] {
			had++
			continue
		}
		kept = append(kept, id)
	}
	r.ids, r.next = kept, 0
	return had
}
