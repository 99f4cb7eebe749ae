package demo

import (
	"slices"
	"sync"
	"time"

	"github.com/pghasql/hasql/cmd/hasql/internal/dashboard"
	"github.com/pghasql/hasql/internal/workload"
)

const (
	// keptWrites is how many of the last acknowledged writes an audit looks for: those of about a minute.
	keptWrites = 1 << 17
	// keptFailures is how many of the last failed writes the demo looks for at its end.
	keptFailures = 1 << 12
	// keptEvents is how many of the last events the page shows.
	keptEvents = 200
)

// recorder records the results of the application's operations, in bounded memory. Every time is a duration since the start
// of the workload and comes from the caller. The methods may be called from several goroutines.
type recorder struct {
	nodes []string // names

	mu      sync.Mutex
	bins    *dashboard.Bins
	ledger  *workload.Ledger
	faults  []fault
	reads   dashboard.Reads
	byNode  []int              // reads answered by each node
	readers []workload.Silence // of each reader
	events  []dashboard.Event
}

func newRecorder(nodes []string, readers int) *recorder {
	return &recorder{
		nodes: nodes, bins: dashboard.NewBins(len(nodes)), ledger: workload.NewLedger(keptWrites, keptFailures),
		byNode: make([]int, len(nodes)), readers: make([]workload.Silence, readers),
	}
}

// acknowledged records an acknowledged write. If the write ended an outage, it returns the outage.
func (r *recorder) acknowledged(id int64, a workload.Ack) (o outage, ended bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.bins.Write(a.Done, a.Node)
	found, ended := r.ledger.Acknowledged(id, a)
	return r.withKindLocked(found), ended
}

// failed records a write whose outcome is unknown.
func (r *recorder) failed(id int64, at time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.bins.Write(at, workload.Nobody)
	r.ledger.Failed(id)
}

// read records a read of a reader. node is workload.Nobody if the read failed.
func (r *recorder) read(reader int, at time.Duration, node int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.bins.Read(at, node)
	if node == workload.Nobody {
		r.reads.Failed++
		return
	}
	r.reads.Answered++
	r.byNode[node]++
	r.readers[reader].End(at)
}

// accepted records a write of a prober, and reports whether it is the first write that a new master accepted.
func (r *recorder) accepted(a workload.Ack) (first bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ledger.Accepted(a)
}

// quiet returns for how long no node has accepted a write of a prober.
func (r *recorder) quiet(now time.Duration) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return now - r.ledger.LastAccepted()
}

// fault records a fault that the demo causes.
func (r *recorder) fault(kind string, node int, at time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.faults = append(r.faults, fault{kind, node, at})
	r.faults = r.faults[max(0, len(r.faults)-workload.KeptOutages):]
}

// event adds a line to the log on the page.
func (r *recorder) event(at time.Duration, kind, text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	number := 1
	if n := len(r.events); n > 0 {
		number = r.events[n-1].Number + 1
	}
	r.events = append(r.events, dashboard.Event{Number: number, At: dashboard.Millis(at), Kind: kind, Text: text})
	r.events = r.events[max(0, len(r.events)-keptEvents):]
}

// log returns the log on the page.
func (r *recorder) log() []dashboard.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.events)
}

// timeline returns the bins from number from up to the time now.
func (r *recorder) timeline(now time.Duration, from int) dashboard.Timeline {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.bins.Advance(now)
	return r.bins.From(from)
}

// expected returns the ids of the writes that the master must have, and of those that it may have.
func (r *recorder) expected() (acknowledged, failed []int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ledger.Expected(), r.ledger.Doubtful()
}

// missing records writes that the master must have and does not have.
func (r *recorder) missing(ids []int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ledger.Lose(ids)
}

// outages returns the latest outages, oldest first.
func (r *recorder) outages() (list []outage) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, o := range r.ledger.Outages() {
		list = append(list, r.withKindLocked(o))
	}
	return list
}

// outageOf returns what is known about the outage that g is.
func (r *recorder) outageOf(g workload.Gap) outage {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.withKindLocked(r.ledger.Outage(g))
}

func (r *recorder) withKindLocked(o workload.Outage) outage {
	return outage{kindOfGap(o.Gap, r.faults), o}
}

// counts returns the counters at the time now.
func (r *recorder) counts(now time.Duration) (w dashboard.Writes, reads dashboard.Reads, byNode map[string]int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.ledger.Counts()
	w = dashboard.Writes{Acknowledged: c.Acknowledged, Failed: c.Failed, Lost: c.Lost, Stray: c.Stray}
	if last := r.ledger.Last(); last.Timeline != 0 {
		w.Silence, w.LastNode = dashboard.Millis(max(now-last.Done, 0)), r.nodes[last.Node]
	}
	reads, byNode = r.reads, make(map[string]int)
	for i := range r.readers { // a reader that waits now has waited since its last answer
		reads.LongestWait = max(reads.LongestWait, dashboard.Millis(r.readers[i].Longest(now)))
	}
	for i, n := range r.byNode {
		byNode[r.nodes[i]] = n
	}
	return w, reads, byNode
}
