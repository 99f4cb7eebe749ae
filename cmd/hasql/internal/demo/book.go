package demo

import (
	"slices"
	"sync"
	"time"

	"github.com/pghasql/hasql/cmd/hasql/internal/dashboard"
)

const (
	// keptWrites is how many of the last acknowledged writes an audit looks for: those of about a minute.
	keptWrites = 1 << 17
	// keptFailures is how many of the last failed writes the demo looks for at its end.
	keptFailures = 1 << 12
	// keptEvents is how many of the last events the page shows.
	keptEvents = 200
)

// book records the results of the application's operations, in bounded memory. Every time is a duration since the start of
// the workload and comes from the caller. The methods may be called from several goroutines.
type book struct {
	nodes []string // names

	mu       sync.Mutex
	bins     *dashboard.Bins
	felt     gaps // in the application's writes
	seen     gaps // in the prober's writes
	injuries []injury
	writes   dashboard.Writes
	reads    dashboard.Reads
	byNode   []int           // reads answered by each node
	waiting  []time.Duration // each reader's last answer
	recent   ring            // ids of acknowledged writes, which the master must have
	failures ring            // ids of failed writes
	events   []dashboard.Event
}

func newBook(nodes []string, readers int) *book {
	return &book{
		nodes: nodes, bins: dashboard.NewBins(len(nodes)), byNode: make([]int, len(nodes)),
		waiting: make([]time.Duration, readers), recent: ring{limit: keptWrites}, failures: ring{limit: keptFailures},
	}
}

// acknowledged records an acknowledged write. If the write ended an outage, it returns the outage.
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

// failed records a write whose outcome is unknown.
func (b *book) failed(id int64, at time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.bins.Write(at, dashboard.Nobody)
	b.writes.Failed++
	b.failures.add(id)
}

// read records a read of a reader. node is nobody if the read failed.
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

// accepted records a write of the prober, and reports whether it is the first write that a new master accepted.
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

// fault records a fault that the demo caused.
func (b *book) fault(kind string, node int, at time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.injuries = append(b.injuries, injury{kind, node, at})
	b.injuries = b.injuries[max(0, len(b.injuries)-keptGaps):]
}

// tell adds a line to the log on the page.
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

// told returns the log on the page.
func (b *book) told() []dashboard.Event {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.events)
}

// timeline returns the bins from number from up to the time now.
func (b *book) timeline(now time.Duration, from int) dashboard.Timeline {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.bins.Advance(now)
	return b.bins.From(from)
}

// owed returns the ids of the writes that the master must have, and of those that it may have.
func (b *book) owed() (acknowledged, failed []int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.recent.list(), b.failures.list()
}

// lost records acknowledged writes that the master does not have.
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

// outageOf returns what is known about the outage that g is.
func (b *book) outageOf(g gap) outage {
	b.mu.Lock()
	defer b.mu.Unlock()
	return outagesOf([]gap{g}, b.seen.found, b.injuries)[0]
}

// counts returns the counters at the time now.
func (b *book) counts(now time.Duration) (w dashboard.Writes, r dashboard.Reads, byNode map[string]int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	w, r, byNode = b.writes, b.reads, make(map[string]int)
	if last := b.felt.last; last.timeline != 0 {
		w.Silence, w.LastNode = dashboard.Millis(max(now-last.done, 0)), b.nodes[last.node]
	}
	for _, last := range b.waiting { // a reader that waits now has waited since its last answer
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
