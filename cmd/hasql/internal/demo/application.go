package demo

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pghasql/hasql"
	"github.com/pghasql/hasql/internal/workload"
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
drop table if exists hasql_demo_ledger;
create table hasql_demo_ledger (id bigint primary key, written_at timestamptz not null default now());
` + workload.ProbeSchema

// appName is the start of every connection's application_name; the index of the node follows. Each query returns this
// name, so its answer shows which node answered.
const appName = "hasql demo "

// An insert also returns the timeline, which shows whether the write went to a superseded master.
const (
	insertSQL = `insert into hasql_demo_ledger (id) values ($1) returning current_setting('application_name'), ` + workload.TimelineSQL
	selectSQL = `select current_setting('application_name'), (select coalesce(max(id), 0) from hasql_demo_ledger)`
)

// application is the application under test: writers and readers that do not know the nodes.
type application struct {
	pm       *hasql.PoolManager
	began    time.Time
	recorder *recorder
	screen   *screen

	ended    chan outage   // outages that ended
	reported chan outage   // the same outages, once reportOutages has completed and logged them
	auditDue chan struct{} // an audit is due; capacity 1
	stop     chan struct{} // closed to end the clients
	clients  sync.WaitGroup
	watchers sync.WaitGroup

	sequences [writers]atomic.Int64 // of the last write
}

// newWorkload makes an application and starts the clock of the log.
func newApplication(pm *hasql.PoolManager, s *screen) *application {
	began := time.Now()
	s.begin(began)
	return &application{
		pm: pm, began: began, recorder: s.recorder, screen: s,
		ended: make(chan outage, 16), reported: make(chan outage, 16), auditDue: make(chan struct{}, 1), stop: make(chan struct{}),
	}
}

// start starts the clients. They end after their current operation when conclude is called, and at once when ctx ends.
func (a *application) start(ctx context.Context) {
	for i := range writers {
		a.clients.Go(func() { a.write(ctx, i) })
	}
	for i := range readers {
		a.clients.Go(func() { a.read(ctx, i) })
	}
}

// accompany starts a prober for each node, the report of outages and the audits. They end with ctx.
func (a *application) accompany(ctx context.Context, config *hasql.Config) {
	for i, n := range config.Nodes {
		p := a.prober(i, n)
		a.watchers.Go(func() { p.Run(ctx) })
	}
	a.watchers.Go(func() { a.reportOutages(ctx) })
	a.watchers.Go(func() { a.auditAfterFailovers(ctx) })
}

// proberPatience is how long no node may accept writes before the probers hunt for the one that does.
const proberPatience = 40 * time.Millisecond

// prober returns a prober for one node. The probers measure the outage of the cluster itself, to compare with the outage of
// the application.
func (a *application) prober(node int, config hasql.NodeConfig) *workload.Prober {
	dial := config.Pool.ConnConfig.Copy()
	return &workload.Prober{
		Connect: func(ctx context.Context) (*pgx.Conn, error) { return pgx.ConnectConfig(ctx, dial) },
		Calm:    func() bool { return a.recorder.quiet(time.Since(a.began)) <= proberPatience },
		Accepted: func(sent, done time.Time, timeline uint32) {
			if a.recorder.accepted(workload.Ack{Sent: sent.Sub(a.began), Done: done.Sub(a.began), Node: node, Timeline: timeline}) {
				a.screen.event(sent, eventNoticed, config.Name+" accepts writes")
			}
		},
	}
}

// wait returns when every goroutine of the application has ended.
func (a *application) wait() {
	a.clients.Wait()
	a.watchers.Wait()
}

// conclude lets every client finish its operation, looks for the acknowledged and the failed writes, and returns the record.
func (a *application) conclude(ctx context.Context) (r record, err error) {
	close(a.stop)
	a.clients.Wait()
	end := time.Since(a.began)
	if err := a.audit(ctx); err != nil {
		return r, err
	}
	_, failed := a.recorder.expected()
	absent, err := a.missing(ctx, failed)
	if err != nil {
		return r, err
	}
	r = record{nodes: a.recorder.nodes, outages: a.recorder.outages(), failedThere: len(failed) - len(absent)}
	r.writes, r.reads, r.byNode = a.recorder.counts(end)
	return r, nil
}

// summary returns the counters and outages of the application in one line.
func (a *application) summary() string {
	writes, _, _ := a.recorder.counts(time.Since(a.began))
	outages := a.recorder.outages()
	var longest time.Duration
	for _, o := range outages {
		longest = max(longest, o.Length())
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

func (a *application) write(ctx context.Context, writer int) {
	route := a.pm.Master()
	for rest := pause; a.rest(ctx, rest); {
		id := idOf(writer, a.sequences[writer].Add(1))
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
			a.recorder.failed(id, now.Sub(a.began))
			a.screen.aside(now, fmt.Sprintf("writer %d, outcome unknown: %v", writer+1, brief(err)))
			continue
		}
		rest = pause
		ack := workload.Ack{Sent: sent.Sub(a.began), Done: now.Sub(a.began), Node: nodeOf(by), Timeline: uint32(timeline)}
		if o, ended := a.recorder.acknowledged(id, ack); ended {
			offer(a.ended, o)
		}
	}
}

// nodeOf returns the node that an application_name belongs to.
func nodeOf(name string) int {
	node, err := strconv.Atoi(strings.TrimPrefix(name, appName))
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

func (a *application) read(ctx context.Context, reader int) {
	route := a.pm.Replica()
	for rest := pause; a.rest(ctx, rest); {
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
		node := workload.Nobody
		if err == nil {
			node = nodeOf(by)
		} else {
			rest = writeAgain
			a.screen.aside(now, fmt.Sprintf("reader %d: %v", reader+1, brief(err)))
		}
		a.recorder.read(reader, now.Sub(a.began), node)
	}
}

// rest pauses, and reports whether to go on.
func (a *application) rest(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-a.stop:
	case <-ctx.Done():
	}
	return false
}

// The application may find a new master before the prober does. The report of an outage waits for the prober, for at most
// reportPatience.
const (
	reportPace     = 10 * time.Millisecond
	reportPatience = time.Second
)

// reportOutages logs each outage when it is over and the prober has seen its end too, until ctx ends.
func (a *application) reportOutages(ctx context.Context) {
	for {
		var o outage
		select {
		case o = <-a.ended:
		case <-ctx.Done():
			return
		}
		offer(a.auditDue, struct{}{})
		for waited := time.Duration(0); !o.ClusterKnown && waited < reportPatience; waited += reportPace {
			if workload.Sleep(ctx, reportPace) != nil {
				return
			}
			o = a.recorder.outageOf(o.Gap)
		}
		log := a.screen.echo // a consequence of the last fault
		if o.kind == kindPause {
			log = a.screen.event // no known fault caused it
		}
		log(a.began.Add(o.After.Done), eventOutage, o.describe(a.recorder.nodes))
		offer(a.reported, o)
	}
}

// report writes a line each second until the workload ends.
func (a *application) report(ctx context.Context) {
	seconds := time.NewTicker(time.Second)
	defer seconds.Stop()
	var before tick
	for {
		select {
		case <-a.stop:
			return
		case <-ctx.Done():
			return
		case <-seconds.C:
		}
		now := time.Now()
		writes, reads, _ := a.recorder.counts(now.Sub(a.began))
		total := tick{writes: writes.Acknowledged, reads: reads.Answered, failed: writes.Failed + reads.Failed}
		t := tick{writes: total.writes - before.writes, reads: total.reads - before.reads, failed: total.failed - before.failed}
		before = total
		snapshot := a.pm.Snapshot()
		for n := range snapshot.Masters() {
			t.master = n.Name
		}
		for n := range snapshot.Nodes() {
			t.nodes = append(t.nodes, condition(n))
		}
		a.screen.tick(now, t)
	}
}

// condition returns the role of a node that is up, else its status.
func condition(n hasql.NodeState) string {
	if n.Status == hasql.StatusUp {
		return n.Role.String()
	}
	return n.Status.String()
}
