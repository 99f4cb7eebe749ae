package demo

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pghasql/hasql"
)

const (
	writers = 8
	readers = 8

	// pause is a client's rest between two operations, so that the machine has time left for the failover.
	pause = 2 * time.Millisecond

	// writeLimit is the time limit of one insert. It is far longer than a failover.
	writeLimit = 10 * time.Second

	// writeAgain is a writer's rest after a failure.
	writeAgain = 20 * time.Millisecond
)

const schema = `
drop table if exists hasql_demo_ledger, hasql_demo_probe;
create table hasql_demo_ledger (id bigint primary key, written_at timestamptz not null default now());
create table hasql_demo_probe (at timestamptz not null);
insert into hasql_demo_probe values (now())`

// application is the start of every connection's application_name; the index of the node follows. Each query returns this
// name, so its answer shows which node answered.
const application = "hasql demo "

// An insert also returns the timeline, which shows whether the write went to a superseded master.
const (
	insertSQL = `insert into hasql_demo_ledger (id) values ($1) returning current_setting('application_name'), ` + timelineSQL
	selectSQL = `select current_setting('application_name'), (select coalesce(max(id), 0) from hasql_demo_ledger)`
)

// workload is the application: writers and readers that do not know the nodes.
type workload struct {
	pm     *hasql.PoolManager
	began  time.Time
	book   *book
	screen *screen

	ended    chan gap      // outages that ended, for the herald
	settled  chan outage   // the same outages, once the herald has completed them
	auditDue chan struct{} // an audit is due; capacity 1
	stop     chan struct{} // closed to end the clients
	clients  sync.WaitGroup
	watchers sync.WaitGroup

	sequences [writers]atomic.Int64 // of the last write
}

// newWorkload makes an application and starts the clock of the log.
func newWorkload(pm *hasql.PoolManager, s *screen) *workload {
	began := time.Now()
	s.begin(began)
	return &workload{
		pm: pm, began: began, book: s.book, screen: s,
		ended: make(chan gap, 16), settled: make(chan outage, 16), auditDue: make(chan struct{}, 1), stop: make(chan struct{}),
	}
}

// start starts the clients. They end after their current operation when conclude is called, and at once when ctx ends.
func (w *workload) start(ctx context.Context) {
	for i := range writers {
		w.clients.Go(func() { w.write(ctx, i) })
	}
	for i := range readers {
		w.clients.Go(func() { w.read(ctx, i) })
	}
}

// accompany starts a prober for each node, the herald and the audits. They end with ctx.
func (w *workload) accompany(ctx context.Context, config *hasql.Config) {
	for i, n := range config.Nodes {
		p := &prober{node: i, config: n.Pool.ConnConfig.Copy(), began: w.began, book: w.book, found: func(a answer) {
			w.screen.event(w.began.Add(a.sent), eventNoticed, n.Name+" accepts writes")
		}}
		w.watchers.Go(func() { p.run(ctx) })
	}
	w.watchers.Go(func() { w.herald(ctx) })
	w.watchers.Go(func() { w.auditAfterFailovers(ctx) })
}

// wait returns when every goroutine of the workload has ended.
func (w *workload) wait() {
	w.clients.Wait()
	w.watchers.Wait()
}

// conclude lets every client finish its operation, looks for the acknowledged and the failed writes, and returns the record.
func (w *workload) conclude(ctx context.Context) (r record, err error) {
	close(w.stop)
	w.clients.Wait()
	end := time.Since(w.began)
	if err := w.audit(ctx); err != nil {
		return r, err
	}
	_, failed := w.book.owed()
	absent, err := w.missing(ctx, failed)
	if err != nil {
		return r, err
	}
	r = record{nodes: w.book.nodes, outages: w.book.outages(), failedThere: len(failed) - len(absent)}
	r.writes, r.reads, r.byNode = w.book.counts(end)
	return r, nil
}

// summary returns the counters and outages of the application in one line.
func (w *workload) summary() string {
	writes, _, _ := w.book.counts(time.Since(w.began))
	outages := w.book.outages()
	var longest time.Duration
	for _, o := range outages {
		longest = max(longest, o.length)
	}
	text := fmt.Sprintf("%d writes acknowledged, %d of them lost and %d on a stale master; %d failed. No outage.",
		writes.Acknowledged, writes.Lost, writes.Stray, writes.Failed)
	if len(outages) > 0 {
		text = strings.TrimSuffix(text, "No outage.") + fmt.Sprintf("%d outages, the longest of %s.", len(outages), Millis(longest))
	}
	return text
}

// idOf returns the primary key of a write.
func idOf(writer int, sequence int64) int64 { return int64(writer)<<40 | max(sequence, 0) }

func (w *workload) write(ctx context.Context, writer int) {
	route := w.pm.Master()
	for rest := pause; w.rest(ctx, rest); {
		id := idOf(writer, w.sequences[writer].Add(1))
		var by string
		var timeline int32
		sent := time.Now()
		limited, cancel := context.WithTimeout(ctx, writeLimit)
		err := route.QueryRow(limited, insertSQL, id).Scan(&by, &timeline)
		cancel()
		now := time.Now()
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			rest = writeAgain
			w.book.failed(id, now.Sub(w.began))
			w.screen.aside(now, fmt.Sprintf("writer %d, outcome unknown: %v", writer+1, brief(err)))
			continue
		}
		rest = pause
		gap, ended := w.book.acknowledged(id, answer{sent.Sub(w.began), now.Sub(w.began), nodeOf(by), uint32(timeline)})
		if ended {
			offer(w.ended, gap)
		}
	}
}

// nodeOf returns the node that an application_name belongs to.
func nodeOf(name string) int {
	node, err := strconv.Atoi(strings.TrimPrefix(name, application))
	if err != nil {
		panic(err) // newPoolManager sets only such names
	}
	return node
}

// offer sends to a channel unless the channel is full.
func offer[T any](c chan<- T, value T) {
	select {
	case c <- value:
	default:
	}
}

func (w *workload) read(ctx context.Context, reader int) {
	route := w.pm.Replica()
	for rest := pause; w.rest(ctx, rest); {
		var by string
		var id int64
		limited, cancel := context.WithTimeout(ctx, readLimit)
		err := route.QueryRow(limited, selectSQL).Scan(&by, &id)
		cancel()
		now := time.Now()
		if ctx.Err() != nil {
			return
		}
		rest = pause
		node := nobody
		if err == nil {
			node = nodeOf(by)
		} else {
			rest = writeAgain
			w.screen.aside(now, fmt.Sprintf("reader %d: %v", reader+1, brief(err)))
		}
		w.book.read(reader, now.Sub(w.began), node)
	}
}

// rest pauses, and reports whether to go on.
func (w *workload) rest(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-w.stop:
	case <-ctx.Done():
	}
	return false
}

// The application may find a new master before the prober does. The herald waits for the prober, for at most heraldPatience.
const (
	heraldPace     = 10 * time.Millisecond
	heraldPatience = time.Second
)

// herald logs each outage when it is over and the prober has seen its end too, until ctx ends.
func (w *workload) herald(ctx context.Context) {
	for {
		var ended gap
		select {
		case ended = <-w.ended:
		case <-ctx.Done():
			return
		}
		offer(w.auditDue, struct{}{})
		o := w.book.outageOf(ended)
		for waited := time.Duration(0); !o.clusterKnown && waited < heraldPatience; waited += heraldPace {
			if sleep(ctx, heraldPace) != nil {
				return
			}
			o = w.book.outageOf(ended)
		}
		tell := w.screen.echo // a consequence of the last fault
		if o.kind == kindPause {
			tell = w.screen.event // no known fault caused it
		}
		tell(w.began.Add(ended.after.done), eventOutage, o.describe(w.book.nodes))
		offer(w.settled, o)
	}
}

// report writes a line each second until the workload ends.
func (w *workload) report(ctx context.Context) {
	seconds := time.NewTicker(time.Second)
	defer seconds.Stop()
	var before tick
	for {
		select {
		case <-w.stop:
			return
		case <-ctx.Done():
			return
		case <-seconds.C:
		}
		now := time.Now()
		writes, reads, _ := w.book.counts(now.Sub(w.began))
		total := tick{writes: writes.Acknowledged, reads: reads.Answered, failed: writes.Failed + reads.Failed}
		t := tick{writes: total.writes - before.writes, reads: total.reads - before.reads, failed: total.failed - before.failed}
		before = total
		snapshot := w.pm.Snapshot()
		for n := range snapshot.Masters() {
			t.master = n.Name
		}
		for n := range snapshot.Nodes() {
			t.nodes = append(t.nodes, condition(n))
		}
		w.screen.tick(now, t)
	}
}

// condition returns the role of a node that is up, else its status.
func condition(n hasql.NodeState) string {
	if n.Status == hasql.StatusUp {
		return n.Role.String()
	}
	return n.Status.String()
}
