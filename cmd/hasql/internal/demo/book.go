package demo

import (
	"slices"
	"sync"
	"time"

	"github.com/pghasql/hasql/cmd/hasql/internal/dashboard"
)

const (
	// keptWrites is how many of the last acknowledged writes are looked for after a failover: a minute's worth.
	keptWrites = 1 << 17
	// keptFailures is how many of the last failed writes are looked for in the end.
	keptFailures = 1 << 12
	// keptEvents is how many of the last events the page shows.
	keptEvents = 200
)

// book holds what became of the application's operations so far, in bounded memory. Every time is one since the workload
// began, and comes from the caller. Its methods may be called from several goroutines.
type book struct {
	nodes []string // names

	mu       sync.Mutex
	bins     *dashboard.Bins
	felt     gaps // by the application
	seen     gaps // by the prober
	injuries []injury
	writes   dashboard.Writes
	reads    dashboard.Reads
	byNode   []int // reads
	waiting  []time.Duration
	recent   ring // ids of acknowledged writes that must be there
	failures ring // ids of failed writes
	events   []dashboard.Event
}

func newBook(nodes []string, readers int) *book {
	return &book{
		nodes: nodes, bins: dashboard.NewBins(len(nodes)), byNode: make([]int, len(nodes)),
		waiting: make([]time.Duration, readers), recent: ring{limit: keptWrites}, failures: ring{limit: keptFailures},
	}
}

// acknowledged books a write, and returns the outage that it ended.
func (b *book) acknowledged(id int64, a answer) (g gap, ended bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.bins.Write(a.done, a.node)
	b.writes.Acknowledged++
	g, ended, astray := b.felt.add(a)
	if astray || a.timeline < b.seen.last.timeline {
		b.writes.Stray++
		return g, false
	}
	b.recent.add(id)
	return g, ended
}

// failed books a write whose outcome is unknown.
func (b *book) failed(id int64, at time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.bins.Write(at, dashboard.Nobody)
	b.writes.Failed++
	b.failures.add(id)
}

// read books a read of a reader; node is nobody if it failed.
func (b *book) read(reader int, at time.Duration, node int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.bins.Read(at, node)
	if node == nobody {
		b.reads.Failed++
		return
	}
	b.reads.Answered++
	b.byNode[node]++
	b.reads.LongestWait = max(b.reads.LongestWait, dashboard.Millis(at-b.waiting[reader]))
	b.waiting[reader] = at
}

// accepted books a write of the prober, and reports whether it is the first one of a new master.
func (b *book) accepted(a answer) (first bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	g, ended, _ := b.seen.add(a)
	return ended && g.moved()
}

// quiet reports for how long no node has accepted a write of the prober.
func (b *book) quiet(now time.Duration) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	return now - b.seen.last.done
}

// fault books what was done to a node on purpose.
func (b *book) fault(kind string, node int, at time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.injuries = append(b.injuries, injury{kind, node, at})
	b.injuries = b.injuries[max(0, len(b.injuries)-keptGaps):]
}

// tell adds a line to the page's log.
func (b *book) tell(at time.Duration, kind, text string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	number := 1
	if n := len(b.events); n > 0 {
		number = b.events[n-1].Number + 1
	}
	b.events = append(b.events, dashboard.Event{Number: number, At: dashboard.Millis(at), Kind: kind, Text: text})
	b.events = b.events[max(0, len(b.events)-keptEvents):]
}

// told returns the page's log.
func (b *book) told() []dashboard.Event {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.events)
}

// timeline returns the bins from a number on, up to a moment.
func (b *book) timeline(now time.Duration, from int) dashboard.Timeline {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.bins.Advance(now)
	return b.bins.From(from)
}

// owed returns the ids that must be on the master, and those that may be.
func (b *book) owed() (acknowledged, failed []int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.recent.list(), b.failures.list()
}

// lost books acknowledged writes that were looked for and are not there.
func (b *book) lost(ids []int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.writes.Lost += b.recent.remove(ids)
}

// outages returns the latest outages, oldest first.
func (b *book) outages() []outage {
	b.mu.Lock()
	defer b.mu.Unlock()
	return outagesOf(b.felt.found, b.seen.found, b.injuries)
}

// outageOf returns what is known of an outage.
func (b *book) outageOf(g gap) outage {
	b.mu.Lock()
	defer b.mu.Unlock()
	return outagesOf([]gap{g}, b.seen.found, b.injuries)[0]
}

// counts returns the figures as they are at a moment.
func (b *book) counts(now time.Duration) (w dashboard.Writes, r dashboard.Reads, byNode map[string]int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	w, r, byNode = b.writes, b.reads, make(map[string]int)
	if last := b.felt.last; last.timeline != 0 {
		w.Silence, w.LastNode = dashboard.Millis(max(now-last.done, 0)), b.nodes[last.node]
	}
	for _, last := range b.waiting { // whoever waits just now has waited so long already
		r.LongestWait = max(r.LongestWait, dashboard.Millis(now-last))
	}
	for i, n := range b.byNode {
		byNode[b.nodes[i]] = n
	}
	return w, r, byNode
}

// ring keeps the last ids that were added.
type ring struct {
	limit int
	ids   []int64
	next  int // the oldest, once it is full
}

func (r *ring) add(id int64) {
	if len(r.ids) < r.limit {
		r.ids = append(r.ids, id)
		return
	}
	r.ids[r.next] = id
	r.next = (r.next + 1) % r.limit
}

// list returns a copy, in no order.
func (r *ring) list() []int64 { return append([]int64(nil), r.ids...) }

// remove forgets ids, and returns how many of them it had.
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
